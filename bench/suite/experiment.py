"""Interface of an experiment: a function that takes typed parameters and a context and yields measurements.

Experiments of the project stand in ``bench.experiments`` and are named in suites as ``file.function``; a user's own
as ``module:function``. The annotation of the first argument, a msgspec Struct, is the strict type of the suite's
``parameters``. If it has a method ``problems`` (see ``Checked``), the method is called before anything runs.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import msgspec

from bench.suite.document import Key
from reports.record import CaseValue, Mode, Scale, ShapingBackend

T = TypeVar("T")
P = ParamSpec("P")
SAMPLES = "samples"  # folder of what is logged sample by sample, of a case and of a run
SelfTest = Literal["refuse", "warn", "skip"]  # the action of a live run on links out of tolerance; skip: no self-test


class Measurement(msgspec.Struct, frozen=True):
    """One number; ``case`` is added to the case of the run (which client, which link, which part of a sweep)."""

    metric: str
    value: float
    unit: str
    case: Mapping[str, CaseValue] = {}


class Setting(NamedTuple):
    """Conditions of an experiment's case beside its parameters; ``shaping`` is None until a run is planned."""

    mode: Mode
    dataset: str = "none"  # resolved; "none" is no data set
    shaping: ShapingBackend | None = None
    data_dir: Path | None = None  # the user's folder of data sets; None also once a run is planned
    stands_in: bool = False  # whether the data set stands in for one whose files are not there, and nothing runs yet
    hosts: frozenset[str] | None = None  # nodes that have machines of their own; None: all nodes run on this one


class Problem(NamedTuple):
    """One error in parameters: its key, such as ``("splits",)`` or ``("stage", 1)``, and its message.

    An ``unused`` parameter is an error only if it is unused in every case of its experiment. A ``note`` is no error: it
    is shown by ``validate`` and at the start of a run, and kept in ``environment.json``.
    """

    key: Key
    message: str
    unused: bool = False
    note: bool = False


def attempt(key: Key, check: Callable[P, T], *given: P.args, **named: P.kwargs) -> Generator[Problem, None, T | None]:
    """The result of ``check``; its ValueError is the problem of the parameter ``key``, and the result None."""
    try:
        return check(*given, **named)
    except ValueError as error:
        yield Problem(key, str(error))
        return None


def absent_hosts(key: Key, names: Iterable[str], setting: Setting) -> Iterator[Problem]:
    """The problem of parameter ``key``, by which a live case starts ``names``, where some have no machine."""
    if setting.hosts is None or setting.mode != "live":
        return
    if missing := [name for name in names if name not in setting.hosts]:
        has = f"it has {', '.join(sorted(setting.hosts))}"
        yield Problem(key, f"needs node {', '.join(missing)}, which the file of --hosts has not; {has}")


def measures_here(setting: Setting) -> Iterator[Problem]:
    """The note of a live experiment that starts no nodes, where others run on hosts."""
    if setting.hosts is not None and setting.mode == "live":
        yield Problem((), "measures this machine, whatever hosts there are", note=True)


def unused_in(parameters: msgspec.Struct, used_in: Mapping[str, Sequence[Mode]], mode: Mode) -> Iterator[Problem]:
    """The problem of every parameter of ``used_in`` that has not its default and that ``mode`` does not use."""
    for field in msgspec.structs.fields(parameters):
        modes = used_in.get(field.name, (mode,))
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        if mode not in modes and getattr(parameters, field.name) != default:
            yield Problem((field.name,), f"only used in mode {' and '.join(modes)}; this one is {mode}")


@runtime_checkable
class Checked(Protocol):
    """Parameters with constraints beyond those of their types."""

    def problems(self, setting: Setting) -> Iterable[Problem]:
        """Every constraint that the parameters break.

        Called for each point of the grid at each scale when a suite is read, and once more for each case with a
        shaped link when a run is planned. Must not read data, and should take milliseconds.

        Args:
            setting: Mode, data set and, in a planned run, the shaping of links.

        Returns:
            The problems; ``Problem(key, message)`` is relative to the experiment's ``parameters``.
        """


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions of one case and the means to report its progress, beside its parameters."""

    seed: int
    scale: Scale
    mode: Mode
    shaping: ShapingBackend
    dataset: str  # a data set of nodes.data.datasets, resolved; "none" where no data is needed
    data_dir: Path | None
    device: str  # "cpu" or "cuda"
    scratch: Path  # an empty folder of this run's own, kept for --resume, removed once the case is recorded
    self_test: SelfTest = "refuse"
    log_samples: bool = False  # whether to write a line for each test sample to ``samples_file``
    say: Callable[[str], None]  # shows one line of progress (accuracy, bytes so far)

    def samples_file(self, training: str) -> Path:
        """The file for JSON lines, one for each test sample of ``training``, which the run keeps in ``samples/``."""
        return self.scratch / SAMPLES / f"{training}.jsonl"
