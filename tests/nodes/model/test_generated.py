"""Generated networks, cut at random places, against plain PyTorch in outputs, gradients and buffers over two steps."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_oracle import assert_equals_plain
from torch import nn
from torch.nn import functional as F

OPERATIONS = {
    "relu": lambda self, x, index: F.relu(x),
    "relu in place": lambda self, x, index: F.relu(x * 1, inplace=True),
    "module": lambda self, x, index: self.convs[index % 2](x),
    "shared": lambda self, x, index: self.convs[0](self.convs[0](x)),
    "norm": lambda self, x, index: self.norm(x),
    "dropout": lambda self, x, index: self.drop(x),
    "functional dropout": lambda self, x, index: F.dropout(x, 0.3, self.training),
    "noise": lambda self, x, index: x + torch.randn(4, 1, 1),
    "view": lambda self, x, index: x.view(x.shape[0], 2, -1).transpose(1, 2).reshape(x.shape),
    "same": lambda self, x, index: x.unsqueeze(0).squeeze(0),
    "chunks": lambda self, x, index: torch.cat(x.chunk(2, 1)[::-1], 1),
    "slice": lambda self, x, index: _slice(x),
    "added": lambda self, x, index: _added(x),
    "parameter": lambda self, x, index: x * self.scale + self.shift,
    "no grad": lambda self, x, index: x + _without_gradient(self, x),
    "whole": lambda self, x, index: self.values(x),
}


def _slice(x):
    x = x + 0
    x[:, 1:3] = x[:, :2] * 2
    return x


def _added(x):
    y = x * 2
    part = y[:, 0]
    part += 1
    y += x
    return y


@torch.no_grad()
def _without_gradient(self, x):
    return self.norm(x)


class Values(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Generated(nn.Module):
    """Operations in a row; each is also read by the one that a residual names."""

    def __init__(self, plan, residuals, hooked, heads) -> None:
        super().__init__()
        self.plan, self.residuals = plan, residuals
        self.stem = nn.Conv2d(3, 4, 1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.norm, self.drop, self.values = nn.BatchNorm2d(4), nn.Dropout(0.4), Values()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("shift", torch.full((4, 1, 1), 0.1))
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(heads))
        if hooked:
            self.norm.register_forward_hook(lambda module, args, out: out * 0.5)
            self.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

    def forward(self, x):
        made = [self.stem(x)]
        for index, name in enumerate(self.plan):
            x = OPERATIONS[name](self, made[-1], index)
            made.append(x + made[self.residuals[index] % len(made)] if self.residuals[index] else x)
        return sum(head(made[-1].mean((2, 3))) for head in self.heads)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    plan=st.lists(st.sampled_from(list(OPERATIONS)), min_size=1, max_size=6),
    residuals=st.lists(st.integers(0, 5), min_size=6, max_size=6),
    hooked=st.booleans(),
    heads=st.integers(1, 2),
    cuts=st.lists(st.integers(0, 1000), min_size=1, max_size=3),
)
def test_parts_of_generated_networks_equal_plain_pytorch(plan, residuals, hooked, heads, cuts):
    kept = {"values"} if "whole" in plan else set()
    assert_equals_plain(
        lambda: Generated(plan, residuals, hooked, heads),
        lambda layers: sorted({1 + cut % (layers - 1) for cut in cuts}),
        kept,
    )
