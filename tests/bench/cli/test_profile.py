"""``bench profile``: what it answers, and what it says of a model that it cannot profile."""

import json

import pytest
import torch
from torch import nn

from bench.cli import profile as profiles
from bench.cli.profile import run_profile
from bench.suite.document import InputError


def branching() -> nn.Module:
    """Cannot be a chain: what it does depends on what it sees."""

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    return Branching()


def broken() -> nn.Module:
    """Cannot be made."""
    raise KeyError("two\nlines")


def test_answer_is_the_contract_s():
    answer = json.loads(json.dumps(run_profile("nodes.zoo.small_cnn:small_cnn", (3, 8, 8), "module")))
    assert set(answer) == {"layers", "boundary_bytes", "forward_s", "backward_s", "parameters"}
    layers = len(answer["layers"])
    assert {len(answer[key]) for key in ("forward_s", "backward_s", "parameters")} == {layers}
    assert len(answer["boundary_bytes"]) == layers + 1
    assert (answer["boundary_bytes"][0], answer["boundary_bytes"][-1]) == (3 * 8 * 8 * 4, 10 * 4)
    assert min(answer["forward_s"]) > 0


def test_torchvision_s_models_have_their_published_classes_and_layers_by_granularity():
    answer = run_profile("squeezenet1_1", (3, 32, 32))
    assert answer["boundary_bytes"][-1] == 1000 * 4
    assert sum(answer["parameters"]) == 1_235_496
    counts = [len(run_profile("resnet18", (3, 32, 32), kind)["layers"]) for kind in ("op", "module")]
    assert counts == [69, 52]


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        ("resnet19", (3, 8, 8), "resnet19.*torchvision"),
        ("nodes.zoo.small_cnn:large_cnn", (3, 8, 8), "large_cnn"),
        ("builtins:dict", (3, 8, 8), "dict"),
        ("nodes.zoo.small_cnn:small_cnn", (1, 8, 8), r"shape \(1, 8, 8\)"),
        ("vit_b_16", (3, 30, 30), "^MODEL: vit_b_16: cannot be built"),
        (branching, (3, 8, 8), "traced"),
        (broken, (3, 8, 8), "two.*lines"),
    ],
)
def test_what_cannot_be_profiled_is_one_line(model, shape, says, monkeypatch):
    if callable(model):  # found as ``module:callable``, whatever this module's name is
        monkeypatch.setattr(profiles, "example", model, raising=False)
        model = "bench.cli.profile:example"
    with pytest.raises(InputError, match=says) as raised:
        run_profile(model, shape)
    assert len(str(raised.value).splitlines()) == 1
