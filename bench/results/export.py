"""Records of a run in files of other tools: CSV, Parquet, TensorBoard, MLflow. Libraries are the extra ``export``."""

import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.results.paired import read_side
from bench.suite.document import InputError
from bench.suite.experiment import SAMPLES
from reports.formatting import label
from reports.record import CONDITIONS, CaseValue, Record

if TYPE_CHECKING:
    import pandas as pd

STEPS = ("epoch", "round", "step", "second", "task")  # keys of a case that are the x-axis of a curve


class Run(NamedTuple):
    """What a tracker calls a run: the records of one case with one seed; curves are not part of it."""

    suite: str
    experiment: str
    case: dict[str, CaseValue]
    seed: int
    conditions: dict[str, str]

    @property
    def title(self) -> str:
        values = f" {label(self.case.items())}" if self.case else ""
        return f"{self.suite}/{self.experiment}{values} seed {self.seed}"


class Point(NamedTuple):
    """A value of a metric of a run, at a step of its curve."""

    metric: str
    value: float
    step: int


def export(folder: Path, to: str, out: Path | None) -> Path:
    """Write the records of the run in ``folder``; return the path of the file or folder. Raises InputError."""
    records = read_side(folder).records
    write, name = WRITERS[to]
    samples = read_samples(folder / SAMPLES) if to in TABLES else None
    base = folder if folder.is_dir() else folder.parent
    path = out or base / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(records, path)
        if samples is not None:
            TABLES[to](samples, path.with_name(f"samples{Path(name).suffix}"))
    except OSError as error:
        raise InputError([f"--out: {path}: {error.strerror or error}"]) from None
    return path


def _library(name: str, to: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            [f"--to {to}: needs {package}, which is not installed; pip install 'splitmec[export]'"]
        ) from None


def read_samples(folder: Path) -> "pd.DataFrame | None":
    """All that a run has logged sample by sample, a row each; None if that is nothing."""
    if not (files := sorted(folder.glob("*.jsonl"))):
        return None
    import pandas as pd  # noqa: PLC0415

    rows = []
    for line in (line for path in files for line in path.read_bytes().splitlines()):
        row = json.loads(line)
        case = {f"case.{key}": value for key, value in row.pop("case").items()}
        gate = {f"gate.{path}": value for path, value in enumerate(row.pop("gate", []), start=1)}
        rows.append(row | case | gate)
    return pd.DataFrame(rows)


def _csv(records: list[Record], path: Path) -> None:
    from reports.pages.tables import frame  # noqa: PLC0415  (pandas)

    _csv_table(frame(records), path)


def _csv_table(table: "pd.DataFrame", path: Path) -> None:
    table.to_csv(path, index=False)


def _parquet(records: list[Record], path: Path) -> None:
    _library("pyarrow", "parquet", "pyarrow")
    from reports.pages.tables import frame  # noqa: PLC0415  (pandas)

    _parquet_table(frame(records), path)


def _parquet_table(table: "pd.DataFrame", path: Path) -> None:
    for column in table.select_dtypes("object").columns:  # a key with numbers and texts
        table[column] = table[column].map(str, na_action="ignore")
    table.to_parquet(path, index=False, engine="pyarrow")


def _tensorboard(records: list[Record], path: Path) -> None:
    _library("tensorboard", "tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    for run, points in runs(records):
        with SummaryWriter(str(path / run.title.replace(" ", "-"))) as writer:
            for point in points:
                writer.add_scalar(point.metric, point.value, point.step)


def _mlflow(records: list[Record], path: Path) -> None:
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions refuse folders without it
    mlflow = _library("mlflow", "mlflow", "mlflow-skinny")
    mlflow.set_tracking_uri(path.resolve().as_uri())
    for run, points in runs(records):
        mlflow.set_experiment(f"{run.suite}/{run.experiment}")
        with mlflow.start_run(run_name=run.title):
            mlflow.log_params({**run.case, "seed": run.seed, **run.conditions})
            for point in points:
                mlflow.log_metric(point.metric, point.value, step=point.step)


TABLES = {"csv": _csv_table, "parquet": _parquet_table}
WRITERS: dict[str, tuple[Callable[[list[Record], Path], None], str]] = {
    "csv": (_csv, "records.csv"),
    "parquet": (_parquet, "records.parquet"),
    "tensorboard": (_tensorboard, "tensorboard"),
    "mlflow": (_mlflow, "mlruns"),
}


def runs(records: Iterable[Record]) -> Iterator[tuple[Run, list[Point]]]:
    """The points of each run. Further keys that only some metrics have are part of the metric's name."""
    records = list(records)
    shared: dict[tuple[str, str], set[str]] = {}
    for one in records:
        keys = one.case.keys() - set(STEPS)
        shared.setdefault((one.suite, one.experiment), set(keys)).intersection_update(keys)
    found: dict[str, tuple[Run, list[Point]]] = {}
    for one in records:
        ours = shared[one.suite, one.experiment]
        case = {key: value for key, value in one.case.items() if key in ours}
        rest = {key: value for key, value in one.case.items() if key not in ours and key not in STEPS}
        conditions = {name: str(getattr(one, name)) for name in CONDITIONS if getattr(one, name)}
        run = Run(one.suite, one.experiment, case, one.seed, conditions)
        steps = [one.case[key] for key in STEPS if key in one.case]
        step = int(steps[0]) if steps and isinstance(steps[0], int | float) else 0
        metric = "/".join([one.metric, *(f"{key}_{value}" for key, value in rest.items())])
        found.setdefault(repr(run), (run, []))[1].append(Point(metric, one.value, step))
    yield from found.values()
