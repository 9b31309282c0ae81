"""``bench run`` as a function that returns the records as a pandas frame."""

from typing import Any

import msgspec
import pandas as pd
from rich.console import Console

from bench.execution.environment import data_folder
from bench.execution.plan import options_of
from bench.execution.runner import run
from bench.suite.document import InputError
from reports.pages.tables import frame
from reports.record import read_records


def run_to_frame(suites: tuple[str, ...], options: dict[str, Any]) -> pd.DataFrame:
    """Run ``suites`` and return the records; see ``bench.run``. Raises InputError, RuntimeError, KeyboardInterrupt."""
    if isinstance(only := options.get("only"), str):
        options = options | {"only": (only,)}
    try:
        asked = options_of(options | {"suites": suites})
    except msgspec.ValidationError as error:
        raise InputError([f"bench.run: {error}"]) from None
    asked = msgspec.structs.replace(asked, data=data_folder(asked.data))
    outcome = run(asked, Console())
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.failures:
        reasons = "; ".join(outcome.failures.values())
        raise RuntimeError(f"{reasons}. The records of the other cases are in {outcome.folder}")
    records = frame(read_records(outcome.folder / "records.jsonl"))
    records.attrs["out"] = str(outcome.folder)
    return records
