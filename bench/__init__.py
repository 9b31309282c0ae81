"""SplitMEC's benchmark runner. ``bench.run("pipeline", scale="smoke")`` is ``bench run`` for notebooks."""
# ruff: noqa: PLC0415 - so that ``bench list`` needs no pandas

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run"]


def run(*suites: str, **options: Any) -> "pd.DataFrame":
    """Run suites as ``bench run`` does.

    Args:
        suites: Paths of suites, or names of packaged ones.
        options: The options of ``bench run`` by name: scale, out, seed, seeds, shard, only (one glob or several),
            device, shaping, data, jobs, restart, resume, rerun_changed, allow_uncalibrated; ``set`` is a mapping such
            as ``{"accuracy.train_samples": 512}``.

    Returns:
        All records of the run, one a row; ``attrs["out"]`` is the folder of the run.

    Raises:
        InputError: An input cannot be used; found before anything runs.
        RuntimeError: An experiment failed; the records of the other cases are in the folder of the run.
        KeyboardInterrupt: Ctrl-C was pressed; the cases that had ended are recorded.
    """
    from rich.console import Console

    from bench.execution.plan import options_of
    from bench.execution.runner import run
    from reports.pages.tables import frame
    from reports.record import read_records

    if isinstance(only := options.get("only"), str):
        options = options | {"only": (only,)}
    if isinstance(changed := options.get("set"), dict):
        options = options | {"set": [f"{key}={json.dumps(value)}" for key, value in changed.items()]}
    outcome = run(options_of(options | {"suites": suites}), Console())
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.failures:
        reasons = "; ".join(outcome.failures.values())
        raise RuntimeError(f"{reasons}. The records of the other cases are in {outcome.folder}")
    records = frame(read_records(outcome.folder / "records.jsonl"))
    records.attrs["out"] = str(outcome.folder)
    return records
