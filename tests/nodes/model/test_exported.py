"""Networks opened by torch.export alone: every cut equals plain PyTorch, bit for bit."""

import copy
import itertools
import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nodes.model.chain
from nodes.errors import ModelError
from nodes.model.chain import Chain
from nodes.model.export import export

SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def export_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("refused")

    monkeypatch.setattr(nodes.model.chain, "trace", refuse)


class OnShapes(nn.Module):
    """Shapes alone decide, and a block that normalises and draws lies behind the decision."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.block = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 3, "three channels"
        if x.shape[-1] % 2 == 0:
            x = F.pad(x, (0, 1, 0, 1))
        x = self.block(self.stem(x))
        return self.head(x.reshape(x.size(0), 8, -1).mean(2))


class OnSlices(nn.Module):
    """Assignments to slices of slices, whose other readers see the change."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        half, first = x[:, ::2], x[:, :1]
        half[:, 1:] = 0.5 * first  # of x too
        half[:, 0].mul_(3)
        x += 2 * first
        made = torch.zeros_like(x)
        made[:, :, :-1] = x[:, :, 1:]
        made[:, :, :, 0] += half.sum((1, 2), keepdim=True)[:, :, 0]
        left, right = made[:, :4], made[:, 4:]
        right.relu_()
        return self.head((made + x).mean((2, 3)) + torch.cat([left, right], 1).amax((2, 3)))


class Writes(nn.Module):
    """A buffer that the forward pass writes, read before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.head = nn.Linear(6, 4)
        self.register_buffer("centre", torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.mean((2, 3)))
        if x.dim() == 2:
            x = (x - self.centre).relu()
            self.centre.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.head(x * self.centre)


class Optional(nn.Module):
    """An argument that the caller leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, deep: bool = True) -> torch.Tensor:
        x = self.stem(x.mean((2, 3)))
        if mask is not None:
            x = x * mask
        return self.head(x.relu() if deep and x.shape[1] > 2 else x)


class Differs(nn.Module):
    """Another operation in evaluation, in a module of its own; arguments by position and by name; a pair returned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.scaled = _Scaled()
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        if tokens.size(1) > 1:
            tokens, weights = self.attention(tokens, tokens, value=tokens, average_attn_weights=False)
            tokens = tokens * weights.sum((1, 2, 3))[:, None, None]
        return self.head(self.scaled(tokens, by=2).mean(1))


class _Scaled(nn.Module):
    def forward(self, x: torch.Tensor, by: float, shift: torch.Tensor | None = None) -> torch.Tensor:
        x = x * by if self.training else x.tanh()
        return x if shift is None else x + shift


class Hooked(nn.Module):
    """Hooks on a leaf, on a block and on the whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)
        self.stem.register_forward_hook(lambda module, given, made: made * 2)
        self.block.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
        self.register_forward_hook(lambda module, given, made: made - 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] < 4:
            return x
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _Hidden(nn.Module):
    """What an exported graph does not show, in one of three ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "gradient":
            return _Sign.apply(self.linear(x))
        if self.how == "no gradient":
            with torch.no_grad():
                return self.linear(x)
        with torch.autocast("cpu", torch.bfloat16):
            return self.linear(x)


class Hides(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.hidden = _Hidden(how)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if x.shape[-1] > 2:
            x = F.avg_pool2d(x, 2)
        x = self.hidden(x.mean((2, 3)))
        return self.head(x.float())


def in_parts(chain: Chain, ends: list[int], train: bool) -> nn.Module:
    """The layers between ``ends`` as parts that share no memory, so that what one writes reaches no other."""
    parts = [copy.deepcopy(chain.part(start, stop)) for start, stop in itertools.pairwise(ends)]
    return nn.ModuleList(parts).train(train)


def one_step(run: Callable[[torch.Tensor], torch.Tensor], model: nn.Module, batch: int) -> dict[str, torch.Tensor]:
    """Result, gradients and state after one step of ``run``, which computes with ``model``, by name."""
    model.zero_grad()
    x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(batch)).requires_grad_()
    torch.manual_seed(3)
    with torch.set_grad_enabled(model.training):
        result = run(x.clone())
    found = {"result": result.detach()}
    if model.training:
        (result * torch.arange(4)).sum().backward()
        found |= {} if x.grad is None else {"gradient of the input": x.grad}
    for name, tensor in model.state_dict(keep_vars=True).items():
        path = name.split("body.")[-1]
        found[path] = tensor.detach().clone()
        if tensor.grad is not None:
            found[f"gradient of {path}"] = tensor.grad.clone()
    return found


@pytest.mark.parametrize("network", [OnShapes, OnSlices, Writes, Optional, Differs, Hooked])
def test_every_cut_equals_plain_pytorch(network: type[nn.Module]) -> None:
    torch.manual_seed(1)
    assert_every_cut_equals_plain(network())


def assert_every_cut_equals_plain(model: nn.Module) -> Chain:
    plain, names = copy.deepcopy(model), list(model.state_dict())
    chain = Chain(model, SHAPE)
    assert len(chain) > 3
    assert list(model.state_dict()) == names
    for train, cut in itertools.product((True, False), range(1, len(chain))):
        parts, whole = in_parts(chain, [0, cut, len(chain)], train), copy.deepcopy(plain).train(train)

        def run(x: torch.Tensor, parts: nn.Module = parts) -> torch.Tensor:
            values = {chain.input: x}
            for part in parts:
                values = part(values)
            return values[chain.output]

        for batch in (3, 2):  # twice, since buffers move
            split, expected = one_step(run, parts, batch), one_step(whole, whole, batch)
            assert split.keys() == expected.keys()
            assert [name for name in expected if not torch.equal(split[name], expected[name])] == [], (
                cut,
                train,
                batch,
            )
    return chain


@pytest.mark.parametrize("how", ["gradient", "no gradient", "autocast"])
def test_a_module_that_hides_something_stays_whole(how: str) -> None:
    torch.manual_seed(1)
    chain = assert_every_cut_equals_plain(Hides(how))
    assert "hidden" in chain.names
    assert not [name for name in chain.names if name.startswith("hidden.")]


class OnValues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class HidesItself(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Sign.apply(x[:, : x.shape[1] if x.shape[1] < 4 else 4]).flatten(1)


class Invents(nn.Module):
    """A number drawn outside of torch, which a graph would make a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.tensor(random.random())
        return (x * noise).flatten(1) if x.shape[1] == 3 else x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (OnValues, rf"cannot be exported: .* \({__file__}:\d+\)$"),
        (HidesItself, r"own forward has a gradient of its own \(_Sign\); move that part into a module of its own"),
        (Invents, "differ between training and evaluation"),
    ],
)
def test_what_no_graph_can_stand_for_is_one_error(network: type[nn.Module], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        export(network(), SHAPE)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_buffer_that_the_forward_pass_writes_stays_in_one_part() -> None:
    chain = Chain(Writes(), SHAPE)
    assert [name for name in chain.names if "head" in name or "stem" in name] == ["stem", "head"]
    crossing = [value for cut in range(len(chain) + 1) for value in chain.shapes(cut).values()]
    assert all(value.shape[0] == 1 for value in crossing)
