"""Records for the tests of this folder."""

from collections.abc import Callable
from typing import Any

import pytest

from reports.record import SCHEMA, Record

DEFAULTS = {
    **{"schema": SCHEMA, "run": "r", "suite": "s", "experiment": "e", "case": {}, "metric": "m", "unit": "", "seed": 0},
    **{"mode": "in-process", "scale": "laptop", "dataset": "digits", "shaping": "none", "device": "cpu"},
}


@pytest.fixture(scope="session")
def record() -> Callable[..., Record]:
    """Function that makes a record; all fields but the value have defaults."""

    def make(value: float, **fields: Any) -> Record:
        return Record(**{**DEFAULTS, "value": value, **fields})

    return make
