"""Small networks as a user may write them, each with something that makes it hard to cut."""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import vgg

from nodes.zoo.small_cnn import small_cnn


class Block(nn.Module):
    """A residual with a functional in-place addition and a functional dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        y += x
        y = self.relu(y)
        return F.dropout(y, 0.3, training=self.training)


class Everything(nn.Module):
    """Chunks of a tuple, a direct parameter, an identity, sizes as scalars, a long residual."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))
        self.nothing = nn.Identity()
        self.block = Block(8)
        self.thin = nn.Conv2d(4, 4, 1)
        self.register_buffer("shift", torch.full((1, 8, 1, 1), 0.1))
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width = x.size(0), x.shape[2], x.shape[3]
        x = self.nothing(self.stem(x))
        y = self.block(x) * self.scale
        left, right = y.chunk(2, dim=1)
        y = torch.cat([self.thin(left), right], dim=1) + self.shift
        y = F.relu(y + x, inplace=True) * self.scale
        y = y.view(batch, 8, height * width).mean(2)
        y = F.dropout(y, 0.5, self.training)
        return self.head(y) + torch.tensor([0.25])


class Detaches(nn.Module):
    """A value and what is detached of it, which share a storage, both live across a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        fixed = y.detach()
        return (y * fixed).mean((2, 3))


class Plain(nn.Module):
    """Small, without batch norm: dropout and two convolutions."""

    def __init__(self, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Viewed(nn.Module):
    """A tensor and two views of it, each read by several layers, in turn."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.mixed = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        flat, part = x.flatten(2), x[:, :, 2:, ::2]
        made = 0.0
        for conv, mix in zip(self.convs, self.mixed, strict=True):
            made = made + torch.tanh(mix(flat)).unflatten(2, (8, 8)) + conv(x) + conv(part).mean((2, 3), keepdim=True)
        return self.head(made.mean((2, 3)))


class Normed(nn.Module):
    """Two convolutions, the second in a residual, with batch norm."""

    def __init__(self, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.head = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(x + self.second(x)).mean((2, 3)))


class Undropped(Plain):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.features[2] = nn.Identity()


DROPPED = {  # what a user may write to drop in training alone
    "by place": lambda x, training: F.dropout(x, 0.5, training),
    "by place, in place": lambda x, training: F.dropout(x, 0.5, training, True),
    "by name, in place": lambda x, training: F.dropout(x, p=0.5, training=training, inplace=True),
    "whole channels": lambda x, training: F.dropout2d(x, 0.5, training),
    "alpha": lambda x, training: F.alpha_dropout(x, 0.5, training),
    "feature alpha": lambda x, training: F.feature_alpha_dropout(x, 0.5, training),
    "torch's own": lambda x, training: torch.dropout(x, 0.5, training),
    "torch's own, by name": lambda x, training: torch.dropout(x, p=0.5, train=training),
    "nothing in evaluation": lambda x, training: F.dropout(x, 0.5 if training else 0.0),
    "slopes": lambda x, training: F.rrelu(x, 0.1, 0.9, training),
}


class Drops(nn.Module):
    """Drops in one of these ways, and reads what was dropped from beside the rest."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = DROPPED[self.how](self.conv(x), self.training)
        return self.head(x.mean((2, 3)))


class Scalars(nn.Module):
    """A number that is no integer, which later layers need, and a decision on a size that no batch changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, keep = x.size(0) ** -0.5, x.size(2) > 100
        x = self.head(self.stem(x) * scale) * scale
        return torch.mean(x.flatten(2), 2, keepdim=keep)


class ChangesItself(nn.Module):
    """Ways to change a tensor in place whose old name is read afterwards."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        if self.how == "method":
            y.add_(1)
        elif self.how == "function":
            torch.relu_(y)
        elif self.how == "module":
            self.relu(y)
        elif self.how == "operator":
            z, size, count = y, x.size(0), x.size(0)
            z *= 3
            size += 1  # a number has no other name
            z += count
        return y.flatten(1) + y.flatten(1)


class OtherInTraining(nn.Module):
    """Does something else in training, in its own forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * 2 if self.training else x.flatten(1)


class Head(nn.Module):
    """Adds an operation in evaluation, and so cannot be looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        return x if self.training else x.softmax(1)


class WithHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = Head()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.head(x.mean((2, 3))))


class Tied(nn.Module):
    """One convolution called twice, or one weight used as a parameter and by a module."""

    def __init__(self, direct: bool) -> None:
        super().__init__()
        self.direct = direct
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.linear(x.mean((2, 3))))
        return F.linear(x, self.linear.weight) if self.direct else self.linear(x)


class Draws(nn.Module):
    """Noise by names that tell nobody that numbers are drawn, twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.mean((2, 3)))
        x = x + torch.empty_like(x).exponential_()
        return self.head(torch.poisson(x.abs()) + x)


class Computes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.linspace(0, 1, 3)[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.scale).flatten(1)


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x * mask


class TwoResults(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x * 2


def tied() -> nn.Module:
    return Tied(direct=False)


def broken() -> nn.Module:
    raise KeyError("no\nsuch setting")


def text() -> str:
    return "not a module"


def narrow_vgg11_bn(classes: int = 10) -> nn.Module:
    """VGG-11 with batch norm and dropout, its fully connected layers 64 instead of 4,096 wide."""
    features = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for width in (512, 64):
        model.append(nn.Linear(width, 64)).append(nn.ReLU(inplace=True)).append(nn.Dropout(0.5))
    return model.append(nn.Linear(64, classes))


class Still(nn.Module):
    """Two layers, then two more; nothing draws or normalises."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 49, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def slim_cnn(classes: int = 10) -> nn.Module:
    """Batch norm on both sides of most cuts, and dropout near the end: 16 modules in a row, each a layer."""
    return small_cnn(classes, width=4)


def bounded_cnn(classes: int = 10) -> nn.Module:
    """A last layer without parameters."""
    return nn.Sequential(*slim_cnn(classes), nn.Tanh())


class ChannelsLast(nn.Module):
    """A convolutional network in channels_last, whose gradient at ``flatten`` is not."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 49, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x.contiguous(memory_format=torch.channels_last))))
        return self.head(self.last(self.second(x)).flatten(1))


class Permuting(nn.Module):
    """As ConvNeXt: a norm and a linear layer over the last axis between permutations, and a residual."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, stride=4)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm, self.linear = nn.LayerNorm(12), nn.Linear(12, 12)
        self.after = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.linear(self.norm(self.deep(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.head(self.after(x + y).sum((2, 3)))


class Branches(nn.Module):
    """Batch norms right before a concatenation: their gradients are parts of a larger tensor."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = (nn.Sequential(nn.Conv2d(8, n, 3), nn.BatchNorm2d(n)) for n in (4, 6))
        self.head = nn.Linear(10, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(torch.cat([self.left(x), self.right(x)], 1)).mean((2, 3)))


class Gaps(nn.Module):
    """Values that are every second of a tensor's, one of hundreds, or the same many times: sums depend on strides."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 258, 3, stride=2), nn.BatchNorm2d(129)
        self.scale, self.fc = nn.Parameter(torch.randn(1, 1, 7, 7)), nn.Linear(129, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)[:, ::2])
        x = x + self.scale.expand(129, 1, 7, 7).sum(0) / 129
        row = torch.relu(x.flatten(2).transpose(1, 2).repeat(1, 3, 1)[:, 100])
        mean = row.mean(1, keepdim=True).expand(-1, 129)
        return self.fc(row + mean.sum(1, keepdim=True) / 129)


def last_cnn(classes: int = 10) -> nn.Module:
    """``slim_cnn`` in channels_last."""
    return slim_cnn(classes).to(memory_format=torch.channels_last)


def encoder(classes: int = 10, width: int = 16) -> nn.Module:
    """A text encoder for sequences of any length: embeddings, torch's encoder of two blocks, and the mean."""
    block = nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True)
    return nn.Sequential(
        nn.Embedding(256, width), nn.TransformerEncoder(block, 2), MeanOfPlaces(), nn.Linear(width, classes)
    )


class MeanOfPlaces(nn.Module):
    """The mean over the places of a sequence."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def two_linear(classes: int = 10) -> nn.Module:
    """For pictures of 3 x 2 x 2."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, classes))
