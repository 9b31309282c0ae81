"""Files and modules that change between two commands of one process: the second command answers from what is there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.cli.main import main
from bench.execution.loader import load
from bench.experiments.common.learning import stored

NET = """
from pathlib import Path
from torch import nn

def net(classes=10):
    width = int(Path(__file__).with_name("width.txt").read_text())
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
"""
SUITE = """
name: mine
dataset: npz:small
experiments:
  - name: one
    run: pipeline.chain
    mode: in-process
    parameters: {model: "mine:net", side: 8, nodes: 2, splits: [2], batch_size: 24, train_samples: TRAIN}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(NET)
    (tmp_path / "width.txt").write_text("4")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))


def write_data(count: int, classes: int) -> None:
    images, labels = np.zeros((count, 8, 8), np.uint8), np.arange(count) % classes
    np.savez("small.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)


def profiled(capsys: pytest.CaptureFixture[str]) -> list[int]:
    assert main(["profile", "mine:net", "--input", "3x8x8", "--json"]) == 0
    parameters: list[int] = json.loads(capsys.readouterr().out)["parameters"]
    return parameters


def test_a_changed_module_is_profiled_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiled(capsys)[0] == 3 * 4 * 9 + 4
    Path("mine.py").write_text(NET.replace("Conv2d(3, width, 3)", "Conv2d(3, width, 5)"))
    assert profiled(capsys)[0] == 3 * 4 * 25 + 4


def test_changed_data_are_judged_and_read_anew(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(SUITE.replace("TRAIN", "24"))
    write_data(24, 3)
    assert main(["validate", "mine.yaml"]) == 0
    assert len(stored("npz:small", str(Path.cwd()), 8).train) == 24
    write_data(16, 3)
    assert main(["validate", "mine.yaml"]) == 2
    assert "parameters.train_samples: npz:small has 16" in capsys.readouterr().err
    write_data(32, 4)
    load(["mine.yaml"], Path.cwd())
    assert len(stored("npz:small", str(Path.cwd()), 8).classes) == 4


def test_a_file_that_a_model_reads_is_read_anew(capsys: pytest.CaptureFixture[str]) -> None:
    write_data(24, 3)
    Path("mine.yaml").write_text(SUITE.replace("TRAIN", "24").replace("splits: [2]", "splits: [2], weights: w.pt"))
    torch.save({"0.weight": torch.zeros(4, 3, 3, 3), "3.bias": torch.zeros(3)}, "w.pt")
    assert main(["validate", "mine.yaml"]) == 0
    assert "2 of 4 tensors taken" in capsys.readouterr().out
    Path("width.txt").write_text("5")
    assert main(["validate", "mine.yaml"]) == 0
    assert "0.weight (the file's is [4, 3, 3, 3], the model's [5, 3, 3, 3])" in capsys.readouterr().out
