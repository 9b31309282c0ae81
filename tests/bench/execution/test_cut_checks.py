"""What crosses a cut is checked before anything runs: dtypes that cannot be sent, and the model's raw input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., int]
Validate = Callable[..., tuple[int, list[str]]]

MODELS = """
import torch
from torch import nn

class Spectral(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, classes)

    def forward(self, x):
        x = torch.fft.rfft2(self.stem(x))  # layers 1 and 2: complex64 from here on
        x = torch.fft.irfft2(x * 2)
        return self.head(x.mean((2, 3)))

class Double(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1).double(), nn.Linear(4, classes)

    def forward(self, x):
        x = self.body(x.double())
        return self.head(x.mean((2, 3)).float())

class Raw(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, classes)

    def forward(self, x):
        y = self.two(self.one(x)) + x
        return self.head(y.mean((2, 3)))
"""
TYPES = "bool, u8, i32, i64, f16, bf16, f32"
AFTER = "would have to send"


@pytest.fixture
def validate(
    folder: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Exit code, notes and errors of ``bench validate`` for an experiment with a model of ``MODELS``."""
    (folder / "uncuttable.py").write_text(MODELS)

    def run(experiment: str, mode: str, parameters: str) -> tuple[int, list[str]]:
        lines = ["name: mine", "dataset: digits", "experiments:", "- name: one", f"  run: {experiment}"]
        lines += [f"  mode: {mode}", f"  parameters: {{{parameters}}}"]
        (folder / "mine.yaml").write_text("\n".join(lines))
        capsys.readouterr()
        code, printed = command("validate", "mine.yaml"), capsys.readouterr()
        notes = [line for line in printed.out.splitlines() if not line.startswith("valid: ")]
        return code, [*notes, *printed.err.splitlines()]

    return run


ROUTE = (
    "model_compute_s: {ue: 1, mec: 1}, links: {ue-mec: {rate_bps: 1e6, delay_s: 0}}, before: [ue, mec], "
    "granularity: op, "
)
CUTS = [
    ("pipeline.chain", "in-process", "splits", "nodes: 2, splits: [2], "),
    ("edge_sl.course", "in-process", "cut", "cut: 2, train_samples: 200, test_samples: 20, "),
    ("live_route.steady", "live", "model", ROUTE),
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut[0])
@pytest.mark.parametrize(
    "wrong",
    [("Spectral", "fft_rfft2 (complex64)", "1, 4 to 5"), ("Double", "body (float64)", "4")],
    ids=["complex", "double"],
)
def test_a_dtype_that_cannot_be_sent_is_found_with_the_splits_that_work(cut, wrong, validate):
    (experiment, mode, key, parameters), (model, value, fits) = cut, wrong
    code, lines = validate(experiment, mode, f"{parameters}model: 'uncuttable:{model}'")
    assert code == 2
    (line,) = lines
    assert line.startswith(f"mine.yaml:7: experiments[0].parameters.{key}: after ")
    assert f"layers the network {AFTER} " in line
    assert f", and the wire carries {TYPES} alone; the splits that work are {fits}" in line
    if key != "model":  # of a service the first boundary is told
        assert f"{AFTER} {value}, " in line


def test_a_split_that_works_is_valid(validate):
    assert validate("pipeline.chain", "in-process", "nodes: 2, splits: [1], model: 'uncuttable:Spectral'") == (0, [])


def test_a_stage_may_make_a_dtype_one_that_can_be_sent(validate):
    parameters = "nodes: 2, splits: [2], stage: float16, model: 'uncuttable:Double'"
    assert validate("pipeline.chain", "in-process", parameters) == (0, [])


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut[0])
def test_the_models_raw_input_across_a_cut_is_warned_of(cut, validate):
    experiment, mode, key, parameters = cut
    code, lines = validate(experiment, mode, f"{parameters}model: 'uncuttable:Raw'")
    size = 4 * 3 * 32 * 32
    after = "1 to 2" if key == "model" else "2"
    assert (code, lines) == (
        0,
        [
            f"mine.yaml:7: experiments[0].parameters.{key}: warning: after {after} layers the model's input x itself "
            f"crosses, {size} bytes a picture, as layer 2 (add) uses it"
        ],
    )


def test_warnings_are_part_of_the_json(validate, command, capsys):
    validate("pipeline.chain", "in-process", "nodes: 2, splits: [1], model: 'uncuttable:Raw'")
    assert command("validate", "mine.yaml", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["errors"]) == (True, [])
    (warning,) = found["notes"]
    assert "the model's input x itself crosses" in warning


@pytest.mark.parametrize("split", [0, 3, 5])
def test_where_the_input_does_not_cross_or_all_is_left_to_the_next_node_nothing_is_said(split, validate):
    assert validate("pipeline.chain", "in-process", f"nodes: 2, splits: [{split}], model: 'uncuttable:Raw'") == (0, [])
