"""What a run logs sample by sample: against the records of the same run, and as tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.cli.main import main

SUITE = """name: gated
dataset: digits
experiments:
  - name: gate
    run: dynsplit.sweep
    mode: in-process
    parallel: true
    parameters:
      model: nodes.zoo.small_cnn:small_cnn
      cut: "3"
      batch_size: 32
      epochs: 1
      train_samples: 64
      test_samples: 40
      targets: [0.4]
      alone: [2]
    grid: {options: {two: {paths: [4, 1]}}}
"""
DEAR, CHEAP = 4 * 8 * 8, 1 * 8 * 8  # bytes of a code: 32 maps of 16x16 become 4 or 1 of 8x8, a byte each

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with ``--log-samples``."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "gated.yaml").write_text(SUITE, encoding="utf-8")
    words = ["run", str(folder / "gated.yaml"), "--out", str(folder / "out"), "--jobs", "1", "--log-samples"]
    assert main(words) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    (path,) = (folder / "samples").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def value(folder: Path) -> Callable[..., float]:
    """The value of a metric, with this case."""
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]

    def found(metric: str, **case: Any) -> float:
        (one,) = [one for one in records if one["metric"] == metric and case.items() <= one["case"].items()]
        return float(one["value"])

    return found


def of(rows: Rows, training: str) -> Rows:
    return [row for row in rows if row["training"] == training]


def test_each_test_sample_has_a_line_with_its_path(rows: Rows, value: Callable[..., float]) -> None:
    gated = of(rows, "target-0.4")
    assert [row["sample"] for row in gated] == list(range(40))
    assert sum(row["correct"] for row in gated) / 40 == pytest.approx(value("test_accuracy"))
    assert sum(row["path"] == 1 for row in gated) / 40 == pytest.approx(value("ratio"))
    assert all(row["correct"] == (row["label"] == row["answer"]) for row in gated)
    assert {row["payload_bytes"] for row in gated} <= {DEAR + 1 / 8, CHEAP + 1 / 8}
    assert gated[0]["case"] == {"options": "two"}


def test_the_gate_prefers_the_path_that_was_taken(rows: Rows) -> None:
    for row in of(rows, "target-0.4"):
        assert sum(row["gate"]) == pytest.approx(1, abs=1e-5)
        assert row["gate"].index(max(row["gate"])) == row["path"] - 1


def test_a_single_path_has_no_gate(rows: Rows) -> None:
    assert {(row["path"], len(row["gate"])) for row in of(rows, "alone-2")} == {(1, 0)}


def test_samples_are_exported_beside_the_records(folder: Path, rows: Rows, tmp_path: Path) -> None:
    assert main(["export", str(folder), "--to", "csv", "--out", str(tmp_path / "mine.csv")]) == 0
    table = pd.read_csv(tmp_path / "samples.csv")
    assert len(table) == len(rows)
    assert list(table["case.options"].unique()) == ["two"]
    first = table[(table.training == "target-0.4") & (table["sample"] == 0)].iloc[0]
    assert [first["gate.1"], first["gate.2"]] == pytest.approx(of(rows, "target-0.4")[0]["gate"])


def test_samples_are_in_no_record(folder: Path) -> None:
    assert "payload_bytes" not in (folder / "records.jsonl").read_text(encoding="utf-8")
