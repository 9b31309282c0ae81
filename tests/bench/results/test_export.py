"""``bench export``: tables and curves of other tools; their libraries stand in where they are not installed."""

import csv
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_records import made

from bench.cli.main import main
from bench.results.export import runs

Write = Callable[..., Path]
RECORDS = [
    made("accuracy", 0.5, 0, n=1, epoch=1),
    made("accuracy", 0.75, 0, n=1, epoch=2),
    made("bytes", 8, 0, n=1, direction="uplink"),
    made("accuracy", 0.25, 1, n=2, epoch=1, set="n=2"),
]


def test_csv_has_a_row_for_each_record(run_of: Write) -> None:
    folder = run_of("run", RECORDS)
    assert main(["export", str(folder), "--to", "csv"]) == 0
    with (folder / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [0.5, 0.75, 8, 0.25]
    assert [(row["case.n"], row["case.epoch"], row["case.direction"]) for row in rows[1:3]] == [
        ("1", "2", ""),
        ("1", "", "uplink"),
    ]
    assert [row["set"] for row in rows] == ["", "", "", "n=2"]


def test_curves_are_points_of_one_run() -> None:
    found = {run.title: [tuple(point) for point in points] for run, points in runs(RECORDS)}
    assert found == {
        "s/e n=1 seed 0": [("accuracy", 0.5, 1), ("accuracy", 0.75, 2), ("bytes/direction_uplink", 8, 0)],
        "s/e n=2 seed 1": [("accuracy", 0.25, 1)],
    }


def test_mlflow_gets_a_run_for_each_case_and_seed(run_of: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Started:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            calls.append("end")

    fake: Any = types.ModuleType("mlflow")
    fake.set_tracking_uri = lambda uri: calls.append(("uri", uri))
    fake.set_experiment = lambda name: calls.append(("experiment", name))
    fake.start_run = lambda run_name: calls.append(("run", run_name)) or Started()
    fake.log_params = calls.append
    fake.log_metric = lambda name, value, step: calls.append((name, value, step))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    folder = run_of("run", RECORDS)
    assert main(["export", str(folder), "--to", "mlflow", "--out", str(folder / "runs")]) == 0
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
    conditions = {"mode": "in-process", "scale": "smoke", "dataset": "none", "shaping": "none", "device": "cpu"}
    assert calls[0] == ("uri", (folder / "runs").resolve().as_uri())
    assert calls[1:4] == [
        *(("experiment", "s/e"), ("run", "s/e n=1 seed 0")),
        {"n": 1, "seed": 0, **conditions, "precision": "float32"},
    ]
    assert calls[4:7] == [("accuracy", 0.5, 1), ("accuracy", 0.75, 2), ("bytes/direction_uplink", 8, 0)]
    assert calls.count("end") == 2


@pytest.mark.parametrize(
    ("to", "library"), [("parquet", "pyarrow"), ("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny")]
)
def test_a_missing_library_names_its_extra(
    to: str, library: str, run_of: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library.partition("-")[0], None)
    assert main(["export", str(run_of("run", RECORDS)), "--to", to]) == 2
    wanted = f"--to {to}: needs {library}, which is not installed; pip install 'splitmec[export]'\n"
    assert capsys.readouterr().err == wanted


def test_a_folder_without_a_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "csv"]) == 2
    assert "no run in this folder" in capsys.readouterr().err
