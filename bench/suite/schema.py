"""A suite's YAML, typed, and the cases that it expands to at a scale."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from bench.gate.compare import GateRule
from bench.suite.document import Key
from bench.suite.experiment import Checked, Context, Measurement, Problem, Setting
from bench.suite.fitted import FitSpec
from bench.suite.identity import Source, content, digest, identity, sources
from bench.suite.parameter_types import Count, DatasetName, NonNegative, Positive
from bench.suite.strict_yaml import DecHook
from nodes.user_modules import UserModules
from reports.claims.claim import Claim
from reports.figures.panels import FigureSpec
from reports.figures.pareto import FrontSpec
from reports.record import CaseValue, Mode, Scale

SCALES: tuple[Scale, ...] = get_args(Scale)
ESTIMATES, LEAST_LIMIT_S = 50.0, 1800.0  # of a time limit: a slow machine under load takes 25 times an estimate
Identifier = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*$")]
Axis = list[CaseValue] | dict[str, Any]  # values, or {label: value}
Run = Callable[[Any, Context], Iterable[Measurement]]
Teller = Callable[[Scale, dict[str, CaseValue], Key, str], str]  # by scale, case and key


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What differs at one scale. ``parameters`` and ``grid`` replace by key; ``skip`` may give a reason."""

    parameters: dict[str, Any] = {}
    grid: dict[str, Axis] = {}
    seeds: Count | None = None
    estimate_s: NonNegative | None = None
    timeout_s: Positive | None = None
    skip: bool | str = False


class ExperimentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One experiment: what to run, with which parameters, swept over which grid.

    ``group`` is one of the suite's ``groups``. ``run`` is ``file.function`` of ``bench.experiments`` or
    ``module:function``. Each point of the grid's product runs with seeds S to S + ``seeds`` - 1, and one of them takes
    about ``estimate_s``. One that takes longer than ``timeout_s`` has failed; without it the limit is 50 times the
    estimate, at least 30 minutes, and there is none without an estimate. Cases of a ``parallel`` experiment may run
    beside each other, on one core each: no claim judges a time measured in it, and it starts no nodes.
    """

    name: Identifier
    run: str
    group: str | None = None
    title: str = ""
    description: str = ""
    mode: Mode = "live"
    dataset: str | None = None
    parameters: dict[str, Any] = {}
    grid: dict[str, Axis] = {}
    seeds: Count = 1
    parallel: bool = False
    estimate_s: NonNegative | None = None
    timeout_s: Positive | None = None
    scales: dict[Scale, Override] = {}
    figures: list[FigureSpec] = []

    def at(self, scale: Scale) -> "Override":
        """All that ``scales`` may change, as it is at ``scale``."""
        other = self.scales.get(scale, Override())
        return Override(
            parameters=self.parameters | other.parameters,
            grid=self.grid | other.grid,
            seeds=other.seeds or self.seeds,
            estimate_s=self.estimate_s if other.estimate_s is None else other.estimate_s,
            timeout_s=self.timeout_s if other.timeout_s is None else other.timeout_s,
            skip=other.skip,
        )


class Extends(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The suite whose defaults, groups, experiments and claims another takes, with its own over them by name."""

    suite: str
    experiments: list[str] | None = None  # those taken, with the claims that name no others; None: all
    without: list[str] = []  # globs of the claims that are left out
    replace: dict[str, CaseValue] = {}  # texts in the selectors of the other claims


class SuiteFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A suite's YAML, expanded; ``dataset`` is that of experiments that name none. See ``bench.suite.expansion``.

    Suites of one ``paper`` are one line of a report's front page.
    """

    name: Identifier
    title: str = ""
    paper: str = ""
    description: str = ""
    include: list[str] = []
    extends: str | Extends | None = None
    dataset: str = "none"
    defaults: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    experiments: list[ExperimentSpec] = []
    claims: list[Claim] = []
    fit: FitSpec | None = None
    gate: list[GateRule] = []
    fronts: list[FrontSpec] = []


@dataclass(frozen=True)
class Case:
    """One point of an experiment's grid with one seed: what is run, and recorded, as a whole."""

    experiment: "Experiment"
    case: dict[str, CaseValue]
    parameters: Any
    seed: int
    estimate_s: float | None
    sha256: str  # see ``bench.suite.identity``
    sources: tuple[Source, ...]
    definition: str  # digest of experiment, mode, data set and parameters alone, without any file's content
    timeout_s: float | None = None  # as the suite says

    @property
    def key(self) -> str:
        return key_of(self.experiment.suite, self.experiment.spec.name, self.case, self.seed)

    @property
    def limit_s(self) -> float | None:
        """How long it may take: what the suite says, else many times its estimate; None without either."""
        if self.timeout_s is None and self.estimate_s is not None:
            return max(LEAST_LIMIT_S, ESTIMATES * self.estimate_s)
        return self.timeout_s

    @property
    def title(self) -> str:
        """``suite/experiment key=value seed 0``."""
        values = "".join(f" {key}={value}" for key, value in self.case.items())
        return f"{self.experiment.name}{values} seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """An experiment of a suite, ready to run.

    ``dataset`` is resolved, ``told`` locates a message about a parameter, names of users' modules mean ``modules``.
    ``set`` names the parameters that ``--set`` has changed, with their values; it is empty where none has.
    """

    suite: str
    spec: ExperimentSpec
    function: Run
    parameters_type: type[msgspec.Struct]
    dataset: str
    dec_hook: DecHook
    told: Teller
    modules: UserModules
    stands_in: bool  # whether the data set stands in for another
    set: str = ""

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.spec.name}"

    def cases(
        self, scale: Scale, seed: int, data_dir: Path | None = None, read: Callable[[Path], str] = content
    ) -> Iterator[Case]:
        """Every case of it, seeds varying fastest; none where the suite skips it at ``scale``.

        ``read`` digests the files that decide it, see ``bench.suite.identity``.
        """
        here = self.spec.at(scale)
        for case, point in () if here.skip else points(here.grid):
            values = here.parameters | point
            parameters = self.parameters(values)
            names = [self.spec.run, DatasetName(self.dataset), parameters]
            decided_by = sources(names, self.modules, data_dir, read)
            definition = [self.spec.run, self.spec.mode, self.dataset, values, *([self.set] if self.set else [])]
            sha256 = identity(definition, decided_by)
            for repeat in range(here.seeds or 1):
                yield Case(
                    experiment=self,
                    case=case,
                    parameters=parameters,
                    seed=seed + repeat,
                    estimate_s=here.estimate_s,
                    timeout_s=here.timeout_s,
                    sha256=sha256,
                    sources=decided_by,
                    definition=digest(definition),
                )

    def setting(self, data_dir: Path | None = None) -> Setting:
        """The conditions under which its parameters are checked before a run is planned."""
        return Setting(self.spec.mode, self.dataset, data_dir=data_dir, stands_in=self.stands_in)

    def skipped(self, scale: Scale) -> str | None:
        """Why it is not run at ``scale``; None if it is."""
        skip = self.spec.at(scale).skip
        reason = f": {skip}" if isinstance(skip, str) else ""
        return f"not at scale {scale}{reason}" if skip else None

    def parameters(self, values: dict[str, Any]) -> Any:
        """``values`` as the experiment's own type. Raises msgspec.ValidationError."""
        with self.modules.in_use():
            return msgspec.convert(values, self.parameters_type, dec_hook=self.dec_hook)

    def problems(self, values: dict[str, Any], data_dir: Path | None) -> list[Problem]:
        """What is wrong with all of ``values`` together; the key is empty where it is unknown."""
        try:
            parameters = self.parameters(values)
        except msgspec.ValidationError as error:
            return [Problem((), str(error))]
        return list(parameters.problems(self.setting(data_dir))) if isinstance(parameters, Checked) else []


@dataclass(frozen=True)
class Suite:
    """A suite that was read and found right; ``expanded`` is its YAML with every short form spelt out.

    ``notes`` are lines of what is worth knowing of its parameters, as errors are told.
    """

    file: SuiteFile
    path: Path
    experiments: list[Experiment]
    expanded: dict[str, Any]
    notes: list[str]

    def sha256(self, scale: Scale) -> str:
        """Covers what decides the numbers of all experiments at ``scale``, but for data sets, which records name."""
        asked = {}
        for spec in self.file.experiments:
            here = spec.at(scale)
            cases = [] if here.skip else [digest([case, here.parameters | point]) for case, point in points(here.grid)]
            asked[spec.name] = [spec.run, spec.mode, here.seeds, sorted(cases)]
        return digest(asked)


def key_of(suite: str, experiment: str, case: dict[str, CaseValue], seed: int) -> str:
    """What tells a case from every other of a run."""
    return msgspec.json.encode((suite, experiment, case, seed), order="sorted").decode()


def points(grid: dict[str, Axis]) -> Iterator[tuple[dict[str, CaseValue], dict[str, Any]]]:
    """(case, parameters) of each point of the product of ``grid``."""
    axes = [list(axis.items()) if isinstance(axis, dict) else [(v, v) for v in axis] for axis in grid.values()]
    for point in itertools.product(*axes):
        labels, values = [label for label, _ in point], [value for _, value in point]
        yield dict(zip(grid, labels, strict=True)), dict(zip(grid, values, strict=True))
