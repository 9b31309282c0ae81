"""Records of a run: one immutable, versioned measurement a line, the only source of tables, figures and verdicts.

Schema 2: a metric's name carries its unit and has one unit in all experiments, accuracies are fractions from 0 to 1,
and a case's ``direction`` is ``uplink`` (away from the UE) or ``downlink`` (towards the UE).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

SCHEMA = 2

Mode = Literal["live", "in-process", "virtual"]
Scale = Literal["smoke", "laptop", "paper"]
ShapingBackend = Literal["none", "emulated", "kernel", "tbf+emulated"]
Precision = Literal["float32", "bfloat16"]
CaseValue = str | int | float | bool
# Fields of a record that are never merged.
CONDITIONS = ("mode", "scale", "dataset", "shaping", "device", "precision", "set")
TRAINED_PICTURES = "trained_pictures"  # metric of a training: pictures, each counted in every epoch
DIVERGED = "diverged"  # metric of a training that ended as its loss was no number: it has no accuracy


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One measured number and its conditions. Raises ValueError for another ``schema``, or a value not finite."""

    schema: int  # version of this format
    run: str
    suite: str
    experiment: str
    case: dict[str, CaseValue]  # values of the varied parameters
    metric: str  # ends in its unit where it has one
    value: float
    unit: str  # empty for counts and fractions
    seed: int
    mode: Mode  # transport between nodes: processes, channels in one process, or virtual time
    scale: Scale
    dataset: str
    shaping: ShapingBackend  # how links were shaped
    device: str
    precision: Precision = "float32"  # in which networks computed; not written if usual
    set: str = ""  # parameters that --set changed, with their values; not written if none

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"record schema {self.schema}, expected {SCHEMA}; repeat the run with this version")
        if not math.isfinite(self.value):
            raise ValueError(f"{self.experiment}/{self.metric}: value must be finite, got {self.value}")


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of ``path``, without a torn last one. Raises ValueError with file and line for other lines."""
    decoder = msgspec.json.Decoder(Record)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield decoder.decode(line)
                except msgspec.DecodeError as error:
                    if line.endswith(b"\n"):  # else it is being written, or was torn by a kill
                        raise ValueError(f"{path}:{number}: {error}") from None
