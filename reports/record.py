"""What did a run measure? One immutable, versioned record a line; all that people read is made from these."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

SCHEMA = 1

Mode = Literal["live", "in-process", "virtual"]
Scale = Literal["smoke", "laptop", "paper"]
ShapingBackend = Literal["none", "emulated", "kernel", "tbf+emulated"]
CaseValue = str | int | float | bool


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured number and the conditions it was measured under."""

    schema: int = SCHEMA
    run: str
    suite: str
    experiment: str
    case: dict[str, CaseValue]
    metric: str
    value: float
    unit: str
    seed: int
    mode: Mode
    scale: Scale
    dataset: str
    shaping: ShapingBackend
    device: str

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"record schema {self.schema}, this version reads {SCHEMA}")
        if not math.isfinite(self.value):
            raise ValueError(f"{self.experiment}/{self.metric}: value must be finite, got {self.value}")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Append ``records`` to ``path``, one JSON object a line."""
    encoder = msgspec.json.Encoder()
    with path.open("ab") as file:
        for record in records:
            file.write(encoder.encode(record) + b"\n")


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of ``path``. Raises ``ValueError`` naming file and line where one cannot be read."""
    decoder = msgspec.json.Decoder(Record)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield decoder.decode(line)
                except msgspec.DecodeError as error:
                    raise ValueError(f"{path}:{number}: {error}") from None
