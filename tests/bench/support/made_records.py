"""Records made by hand, for tests of what is made of records."""

from typing import Any

import msgspec

from reports.record import Record

CONDITIONS: dict[str, Any] = {"mode": "in-process", "scale": "smoke", "dataset": "none", "shaping": "none"}


def made(metric: str, value: float, seed: int = 0, **fields: Any) -> Record:
    """One record; ``fields`` are those of a record, or of its case."""
    of_record = {key: fields.pop(key) for key in list(fields) if key in Record.__struct_fields__}
    usual = {"schema": 2, "run": "r", "suite": "s", "experiment": "e", "unit": "", "device": "cpu", **CONDITIONS}
    return msgspec.convert(
        {**usual, **of_record, "metric": metric, "value": value, "seed": seed, "case": fields}, Record
    )
