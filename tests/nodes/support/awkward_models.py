"""Networks of which a plain trace sees another network: hooks, modes, state, draws, changes in place."""

import contextlib
import numbers as numbers_abc
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class Net(nn.Module):
    """A body and a head, with ``between`` applied in the body."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(between or nn.Identity(), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Calls(nn.Module):
    """A module whose forward is a function of itself and its input."""

    def __init__(self, function, **modules) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def root_hooks() -> nn.Module:
    net = Net()
    net.register_forward_pre_hook(lambda module, args: (args[0] * 0.5 + 1.0,))
    net.register_forward_hook(lambda module, args, out: out / 2.0)
    return net


def hooks_with_keywords() -> nn.Module:
    net = Net()
    net.body.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True)
    net.body.register_forward_hook(lambda module, args, kwargs, out: out * args[0], with_kwargs=True)
    return net


def backward_hook() -> nn.Module:
    net = Net()
    net.body.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))
    return net


class Frozen(Net):
    """A backbone without gradients."""

    mode = staticmethod(torch.no_grad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.mode():
            x = self.body(self.stem(x))
        return self.head(x.mean((2, 3)))


class Inferred(Frozen):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            x = self.body(self.stem(x))
        return self.head(x.clone().mean((2, 3)))


class TrainedInTraining(Frozen):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.training):
            return super().forward(x)


class Mixed(Net):
    """The body in bfloat16, a convolution used twice so that its cast is shared, a part of it in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.stem(x)
            x = self.body(x) + self.body(x * 0.5)
            with torch.autocast("cpu", enabled=False):
                x = x.float() * 1.001
            x = self.body(x)
        return self.head(x.float().mean((2, 3)))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -grad * ctx.scale, None


def _mask(self, x):
    x = x * 1
    x[:, :2] = 0.0
    return x


def _shift(self, x):
    out = torch.zeros_like(x)
    out[:, :, :-1] = x[:, :, 1:]
    return out


def _through_views(self, x):
    x = x * 1
    first, rest = x[:, :2], x[:, 2:]
    first.mul_(2)
    rest[:, 0] += first[:, 1]
    flat = x.flatten(2)
    flat -= 0.1
    x[:, 0] += rest[:, 1]
    return x + flat.view(x.shape)


def _into_constant(self, x):
    out = torch.zeros(8, x.shape[2], x.shape[3])
    out[1] = 2
    out += x.mean(0)
    return x * out


def _copies(self, x):
    y = x.clone()
    y.copy_(x.mean((2, 3), keepdim=True))
    z = y.unsqueeze(1)
    z.squeeze_(1)
    return F.relu(y, True) + x.new_ones(x.shape) + z


def _sizes(self, x):
    assert x.shape[1] == 8, "eight channels"
    if x.shape[-1] % 2 or x.ndim != 4:
        x = F.pad(x, (0, 1, 0, 1))
    size, kind, count = x.shape[-2:], x.dtype, len(x)
    y = F.max_pool2d(x, 2)
    for channel in range(x.shape[1] // 4):
        y = y + channel
    y = F.interpolate(y, size=size).to(kind)
    return y.reshape(count, -1, *size) / x.shape[0] + x.numel() * 1e-6


def _types(self, x):
    count = len(x)
    numbers = isinstance(x.size(0), int) and type(x.shape[0]) is int and isinstance(x.numel(), numbers_abc.Integral)
    shapes = isinstance(x.shape, torch.Size) and type(x.shape) is torch.Size and type(x.chunk(2, 1)) is tuple
    tensors = (
        x.is_cpu
        and not x.is_meta
        and x.__class__ is torch.Tensor
        and type(x) is torch.Tensor
        and isinstance(type(self), type)
        and type("Name", (), {}).__name__ == "Name"
    )
    return x * (2 if numbers else 3) + (4 if shapes else 5) - (6 if tensors else 7) * (type(count / 2) is float)


def _counts_calls(self, x):
    self.calls = getattr(self, "calls", 0) + 1
    return x * self.calls


def _forks(self, x):
    with torch.random.fork_rng():
        noise = torch.randn(8, 1, 1)
    return x + noise * torch.rand(8, 1, 1)


def _changed_without_gradient(self, x):
    y = x * 2
    with torch.no_grad():
        y[:, :2].zero_()
    return y


def _values(self, x):
    return x * 2 if x.mean() > 0 else x * 3


def _noise(self, x):
    return x + 0.1 * torch.randn(8, 1, 1) + torch.rand_like(x) + torch.empty(8, 1, 1).uniform_()


def _numpy_noise(self, x):
    return x + float(np.random.rand()) + random.random()


def _seeded(self, x):
    torch.manual_seed(0)
    return x + torch.randn(8, 1, 1)


def _seeded_for_itself(self, x):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return x + torch.randn(8, 1, 1)


def _own_generator(self, x):
    if not hasattr(self, "generator"):
        self.generator = torch.Generator().manual_seed(1)
    return x + torch.randn(8, 1, 1, generator=self.generator)


def _saves_less(self, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.bfloat16(), lambda tensor: tensor.float()):
        return x * x * 1.3


def _other_parameters(self, x):
    halved = {"weight": self.inner.weight * 0.5, "bias": self.inner.bias}
    return torch.func.functional_call(self.inner, halved, (x,))


class Centre(nn.Module):
    """A running centre, written in its forward: ``how`` it is."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("centre", torch.zeros(8))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            mean = x.detach().mean((0, 2, 3))
            if self.how == "in place":
                self.centre.mul_(0.9).add_(mean, alpha=0.1)
            elif self.how == "assigned":
                self.centre = 0.9 * self.centre + 0.1 * mean
            else:
                self.calls += 1
        if self.how == "counted":
            return x * (1 + 0.1 * self.calls)
        return x - self.centre.view(1, -1, 1, 1)


class FrozenNorm(Net):
    """Batch norm that stays in evaluation, by an own ``train``."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(8))

    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self.body[0].eval()
        return self


class EvaluatedInForward(Net):
    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.body[0].eval()
        return super().forward(x)


class Saves(Net):
    """Checkpoints of activations, with dropout inside."""

    def __init__(self, how: str) -> None:
        super().__init__(nn.Dropout(0.3))
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.how == "sequential":
            x = checkpoint_sequential(self.body, 2, x, use_reentrant=False)
        else:
            x = checkpoint(self.body, x, use_reentrant=self.how == "old")
        return self.head(x.mean((2, 3)))


class Whole(Net):
    def __init__(self) -> None:
        super().__init__(Calls(_values))
        self.body[0].whole = True


def normalised(wrap) -> nn.Module:
    net = Net()
    net.stem, net.body[2] = wrap(net.stem), wrap(net.body[2])
    return net


def lazy() -> nn.Module:
    net = Net()
    net.stem, net.head = nn.LazyConv2d(8, 3, padding=1), nn.LazyLinear(4)
    return net


class SharedNoise(Net):
    """A new tensor made and read by keyword, an unregistered constant, a module made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.linspace(0, 1, 8).view(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.Softmax(dim=1)(self.stem(x)) * self.table
        with contextlib.suppress(ZeroDivisionError):
            x = torch.where(input=x, condition=x > 0.1, other=torch.zeros((), device=x.device))
        halves = {"left": x[:, :4], "right": x[:, 4:]}
        top = torch.topk(x, 3, dim=1)
        x = torch.cat([halves["right"], halves["left"]], 1) + top.values.sum(1, keepdim=True)
        return self.head(self.body(x).mean((2, 3)))


class ChangedView(nn.Module):
    """A view changed in place: torch lays out the gradients of all operands anew, so a bias may sum up otherwise."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.weight, self.bias = nn.Parameter(torch.randn(16, 16)), nn.Parameter(torch.randn(16))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        hidden = self.how == "hidden"  # torch makes a view of its own
        x = torch.einsum("bchw,cd->bhwd", x, self.weight) if hidden else x.permute(0, 2, 3, 1)
        if self.how == "by a module":
            x = self.relu((x + self.bias).transpose(1, 2))
        else:
            x += self.bias
        return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))


class ChangedSlice(nn.Module):
    """A slice changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(8)])
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](self.stem(x))
        y = torch.cat([y, y.relu()], 1)[:, :8]
        y += self.side(x)
        return self.head(self.norms[1](y).relu().mean((2, 3)))


EXACT = {  # networks, and the paths that must stay whole
    "root hooks": (root_hooks, ()),
    "hooks with keywords": (hooks_with_keywords, ()),
    "backward hook": (backward_hook, ("body",)),
    "no_grad": (Frozen, ()),
    "inference_mode": (Inferred, ()),
    "set_grad_enabled": (TrainedInTraining, ()),
    "autocast": (Mixed, ()),
    "autograd function": (lambda: Net(Calls(lambda self, x: Sign.apply(x))), ()),
    "gradient reversal": (lambda: Net(Calls(lambda self, x: Reverse.apply(x, 0.5))), ()),
    "mask": (lambda: Net(Calls(_mask)), ()),
    "shift": (lambda: Net(Calls(_shift)), ()),
    "views": (lambda: Net(Calls(_through_views)), ()),
    "into a constant": (lambda: Net(Calls(_into_constant)), ()),
    "copies": (lambda: Net(Calls(_copies)), ()),
    "sizes": (lambda: Net(Calls(_sizes)), ()),
    "types": (lambda: Net(Calls(_types)), ()),
    "calls counted by a number": (lambda: Net(Calls(_counts_calls)), ("body.0",)),
    "fork_rng": (lambda: Net(Calls(_forks)), ("body.0",)),
    "a view, without gradients": (lambda: Net(Calls(_changed_without_gradient)), ("body.0",)),
    "values": (lambda: Net(Calls(_values)), ("body.0",)),
    "noise": (lambda: Net(Calls(_noise)), ()),
    "numpy's noise": (lambda: Net(Calls(_numpy_noise)), ("body.0",)),
    "seeded in forward": (lambda: Net(Calls(_seeded)), ("body.0",)),
    "seeded for itself": (lambda: Net(Calls(_seeded_for_itself)), ("body.0",)),
    "own generator": (lambda: Net(Calls(_own_generator)), ("body.0",)),
    "saved in bfloat16": (lambda: Net(Calls(_saves_less)), ("body.0",)),
    "other parameters": (lambda: Net(Calls(_other_parameters, inner=nn.Conv2d(8, 8, 1))), ("body.0",)),
    "centre in place": (lambda: Net(Centre("in place")), ("body.0",)),
    "centre assigned": (lambda: Net(Centre("assigned")), ("body.0",)),
    "calls counted": (lambda: Net(Centre("counted")), ("body.0",)),
    "own train": (FrozenNorm, ()),
    "eval in forward": (EvaluatedInForward, ()),
    "checkpoint, new": (lambda: Saves("new"), ()),
    "checkpoint, old": (lambda: Saves("old"), ()),
    "checkpoint, sequential": (lambda: Saves("sequential"), ()),
    "whole": (Whole, ()),
    "spectral norm, old": (lambda: normalised(nn.utils.spectral_norm), ()),
    "spectral norm": (lambda: normalised(nn.utils.parametrizations.spectral_norm), ()),
    "weight norm": (lambda: normalised(nn.utils.parametrizations.weight_norm), ()),
    "lazy": (lazy, ()),
    "constants": (SharedNoise, ()),
    "a view": (lambda: ChangedView("permuted"), ()),
    "a hidden view": (lambda: ChangedView("hidden"), ()),
    "a view, by a module": (lambda: ChangedView("by a module"), ()),
}
