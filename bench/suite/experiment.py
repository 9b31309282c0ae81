"""What is an experiment? A function that takes typed parameters and a context and yields measurements.

Experiments of the project stand in ``bench.experiments`` and are named in suites as ``file.function``; anybody
else's as ``module:function``. The annotation of the first argument, a msgspec Struct, is the strict type of the
suite's ``parameters``. If that type has a method ``check``, it is asked before anything runs, for each point of the
grid at each scale: it yields (key, message) of what is wrong, key such as ``("splits",)`` or ``("stage", 1)``. A method
``check_mode`` is asked the same with the experiment's mode, ``check_dataset`` with its data set, ``check_shaping`` with
who is to shape its links; ``unused`` names what makes no difference in a case.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import msgspec

from bench.suite.document import Key
from reports.record import CaseValue, Mode, Scale, ShapingBackend

SelfTest = Literal["refuse", "warn", "skip"]  # what a live run is to do about links that are off; skip: not try


class Measurement(msgspec.Struct, frozen=True):
    """One number; ``case`` is added to the case of the run (which client, which link, which part of a sweep)."""

    metric: str
    value: float
    unit: str
    case: Mapping[str, CaseValue] = {}


@runtime_checkable
class Checked(Protocol):
    """Parameters that know whether they fit together, beyond what their types say."""

    def check(self) -> Iterable[tuple[Key, str]]:
        """What is wrong, each with where it stands in the parameters. Reads no data and takes little time."""


@runtime_checkable
class ModeChecked(Protocol):
    """Parameters that know whether they fit how the experiment is run."""

    def check_mode(self, mode: Mode) -> Iterable[tuple[Key, str]]:
        """As ``Checked.check``."""


@runtime_checkable
class DatasetChecked(Protocol):
    """Parameters that know whether they fit the pictures that the experiment has."""

    def check_dataset(self, dataset: str) -> Iterable[tuple[Key, str]]:
        """As ``Checked.check``; "none" is no data set."""


@runtime_checkable
class UseChecked(Protocol):
    """Parameters that know which of them make no difference beside the others."""

    def unused(self) -> Iterable[tuple[Key, str]]:
        """Those, each with why; refused where a suite gives one that is of use in no case of the experiment."""


@runtime_checkable
class ShapingChecked(Protocol):
    """Parameters that know who can shape the links that they ask for."""

    def check_shaping(self, shaping: ShapingBackend) -> Iterable[tuple[Key, str]]:
        """As ``Checked.check``; asked of cases that have links, before a run begins."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment is given beside its parameters."""

    seed: int
    scale: Scale
    mode: Mode
    shaping: ShapingBackend
    dataset: str  # a data set of nodes.data.datasets, resolved; "none" where no data is needed
    data_dir: Path | None
    device: str  # "cpu" or "cuda"
    scratch: Path  # an empty folder of this run's own, kept for --resume, removed once the case is recorded
    self_test: SelfTest = "refuse"
    say: Callable[[str], None]  # shows one line of progress (accuracy, bytes so far)
