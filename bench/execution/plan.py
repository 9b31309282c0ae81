"""The plan of a run, made before anything runs, and the status of its experiments, from what is recorded."""

import functools
import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import msgspec

from bench.execution import environment as conditions
from bench.execution.loader import load
from bench.live.hosts.document import Hosts, read_hosts
from bench.planning.settings import with_seeds, with_settings
from bench.planning.shards import keys_of_shard, shard_of
from bench.suite.document import InputError, Key
from bench.suite.experiment import Checked, Setting
from bench.suite.find import own_name
from bench.suite.identity import content
from bench.suite.schema import Case, Experiment, Suite
from netem.profiles import Duplex
from netem.trace import TraceError
from netem.trace_schedule import files_of, least_step_s, stalls
from nodes.imports import did_you_mean
from reports.claims.claim import Selector
from reports.claims.statistics import same
from reports.record import Mode, Scale, ShapingBackend

Jobs = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seeds = Annotated[int, msgspec.Meta(ge=1, le=conditions.MOST_SEEDS)]
Restarts = Annotated[int, msgspec.Meta(ge=0, le=conditions.MOST_RESTARTS)]
KERNEL_STEP_S = 0.005  # between changes of a trace that tc can follow
START_S = 4.0  # until a worker process has imported what it needs


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of ``bench run``. ``out`` None is ``runs/<suites>-<UTC>``; ``only`` without globs is everything.

    ``claims`` names claims of the suites; only cases that one of them is judged by are run. Without names all are.
    ``shard`` K/N runs the K-th of N parts of the cases that these name.
    ``set`` has texts ``experiment.key=value`` that change parameters; ``seeds`` is the number of every case's seeds.
    """

    suites: tuple[str, ...]
    scale: Scale = "laptop"
    out: Path | None = None
    seed: int = 0
    only: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    seeds: Seeds | None = None
    shard: str | None = None  # K/N
    cluster: str | None = None  # address or file of a Dask scheduler, which runs the cases of parallel experiments
    device: conditions.DeviceChoice = "auto"
    shaping: conditions.ShapingChoice = "auto"
    data: Path | None = None
    hosts: Path | None = None  # the file of the machines that nodes of live experiments run on; None: this one
    insecure: bool = False  # whether hosts without TLS may be others than this machine
    resume: bool = False
    rerun_changed: bool = False  # with resume
    restart: Restarts = 0  # of live chains and federations in which a process has died, at most so many a case
    jobs: Jobs | None = None  # cases of parallel experiments that run at once; None: see _jobs
    allow_uncalibrated: bool = False
    log_samples: bool = False  # a line for each test sample, in samples/; never in records
    watch: Port | None = None  # of the page that shows the run; 0 a free one, None no page
    arguments: tuple[str, ...] = ()  # of the command line, for environment.json

    def plain(self) -> dict[str, Any]:
        """The options as plain data for JSON; ``options_of`` is the inverse."""
        return cast(dict[str, Any], msgspec.to_builtins(self, enc_hook=str))


def options_of(plain: dict[str, Any]) -> Options:
    """Options from plain data; the folder with data sets may be that of the environment. Raises InputError."""
    try:
        options = msgspec.convert(plain, Options, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise InputError([f"options: {error}"]) from None
    return msgspec.structs.replace(options, data=conditions.data_folder(options.data))


@dataclass(frozen=True)
class RunPlan:
    """All that is decided before anything runs: ``selected`` by --only, and ``cases`` of every experiment."""

    options: Options
    suites: list[Suite]
    device: str
    shaping: ShapingBackend
    jobs: int
    selected: list[Experiment]
    cases: dict[str, list[Case]]
    name: str  # of what was asked for
    hosts: Hosts | None = None

    @functools.cached_property
    def selected_cases(self) -> list[Case]:
        asked = [case for experiment in self.selected for case in self.cases[experiment.name] if self._is_asked(case)]
        if self.options.shard is None:
            return asked
        ours = keys_of_shard(asked, shard_of(self.options.shard))
        return [case for case in asked if case.key in ours]

    def _is_asked(self, case: Case) -> bool:
        return (
            any(
                selector.experiment == case.experiment.spec.name
                and all(same(case.case[name], value) for name, value in selector.case.items() if name in case.case)
                for selector in _needed(self.suites, self.options.claims).get(case.experiment.suite, ())
            )
            or not self.options.claims
        )

    @functools.cached_property
    def notes(self) -> list[str]:
        """Lines of what is worth knowing of the selected cases and no error."""
        return _told(self.options.scale, self.selected_cases, partial(_notes, _named(self.hosts)))

    def schedule(self, todo: Iterable[Case]) -> "Schedule":
        """Decide which of ``todo`` run at once: all that may, unless workers take longer to start than they save."""
        cases = [case for case in todo if case.experiment.spec.parallel]
        whole_s = sum(math.inf if case.estimate_s is None else case.estimate_s for case in cases)
        if self.options.cluster is not None:
            return Schedule(max(1, self.jobs), frozenset(case.key for case in cases))
        jobs = min(self.jobs, len(cases))
        worth = jobs > 1 and whole_s * (1 - 1 / jobs) > START_S
        return Schedule(jobs, frozenset(case.key for case in cases) if worth else frozenset())

    @property
    def dataset(self) -> str:
        used = {experiment.dataset for suite in self.suites for experiment in suite.experiments}
        return ", ".join(sorted(used - {"none"})) or "none"


class Schedule(NamedTuple):
    """Keys of the cases that run at once, ``jobs`` at a time; the others run one after another."""

    jobs: int
    beside: frozenset[str]

    def runs_beside(self, case: Case) -> bool:
        return case.key in self.beside

    def share_s(self, case: Case, seconds: float | None) -> float | None:
        """Seconds that ``case``, which takes ``seconds``, adds to the run."""
        return seconds / self.jobs if seconds is not None and self.runs_beside(case) else seconds


def make_plan(options: Options, checked: bool = False) -> RunPlan:
    """Read and check the suites and the machine. Raises InputError with every error found.

    What another process has ``checked`` is not checked again, as far as that takes time.
    """
    if options.resume and options.out is None:
        raise InputError(["--resume: give the folder of the run to continue as --out"])
    if options.rerun_changed and not options.resume:
        raise InputError(["--rerun-changed: give --resume too"])
    if options.log_samples and options.cluster is not None:
        raise InputError(["--log-samples: not with --cluster, whose workers keep no files; use --shard"])
    if options.shard is not None:
        shard_of(options.shard)
    hosts = None if options.hosts is None or checked else read_hosts(options.hosts, options.insecure)
    suites = load(options.suites, options.data, checked)
    suites = with_settings(suites, options.set, options.scale, options.data, checked)
    if options.seeds:
        suites = with_seeds(suites, options.seeds, options.scale)
    device, shaping = conditions.device(options.device), conditions.shaping(options.shaping)
    known = [experiment for suite in suites for experiment in suite.experiments]
    if not known:
        raise InputError([f"{name}:1: experiments: the suite has none" for name in options.suites])
    selected = _selected(known, options.only)
    if options.claims:
        claims = [claim.claim for suite in suites for claim in suite.file.claims]
        if unknown := [name for name in options.claims if name not in claims]:
            raise InputError([f"no claim {name!r} in the suite{did_you_mean(name, claims)}" for name in unknown])
        needed = _needed(suites, options.claims)
        asked_for = {f"{suite}/{one.experiment}" for suite, selectors in needed.items() for one in selectors}
        selected = [experiment for experiment in selected if experiment.name in asked_for]
    read = functools.cache(content)  # a folder of pictures is looked through once
    cases = {one.name: list(one.cases(options.scale, options.seed, options.data, read)) for one in known}
    jobs, name = options.jobs or _jobs(options.scale, device), "+".join(map(own_name, options.suites))
    if hosts is not None and shaping in ("kernel", "tbf+emulated"):
        raise InputError(["--shaping: kernel: links between hosts are emulated; give emulated or none"])
    plan = RunPlan(options, suites, device, shaping, jobs, selected, cases, name, hosts)
    if not plan.selected_cases:
        skipped = [f"{one.name} is {one.skipped(options.scale)}" for one in selected]
        raise InputError([f"--scale: {one}; nothing else was asked for" for one in skipped])
    for find in () if checked else (lambda case: _misfits(case, shaping), _absent, partial(_off_hosts, hosts, shaping)):
        if lines := _told(options.scale, plan.selected_cases, find):
            raise InputError(lines)
    return plan


def _needed(suites: list[Suite], claims: Sequence[str]) -> dict[str, list[Selector]]:
    """What those of ``claims`` that each suite has are judged by."""
    files = [suite.file for suite in suites]
    chosen = {file.name: [claim for claim in file.claims if claim.claim in claims] for file in files}
    return {suite: [selector for claim in found for selector in claim.needed] for suite, found in chosen.items()}


def _jobs(scale: Scale, device: str) -> int:
    """One case for each core; one at a time at scale paper and on a GPU, where a case uses the whole machine."""
    return 1 if scale == "paper" or device != "cpu" else conditions.cores()


def _told(scale: Scale, cases: list[Case], find: Callable[[Case], Iterable[tuple[Key, str]]]) -> list[str]:
    """Lines of what ``find`` finds in ``cases``, each once."""
    lines: dict[str, None] = {}
    for case in cases:
        with case.experiment.modules.in_use():
            found = list(find(case))
        lines |= {case.experiment.told(scale, case.case, key, message): None for key, message in found}
    return list(lines)


def _misfits(case: Case, shaping: ShapingBackend) -> Iterator[tuple[Key, str]]:
    mode = case.experiment.spec.mode
    return misfits(case.parameters, mode, case.experiment.dataset, conditions.shaping_of(mode, shaping))


def _absent(case: Case) -> Iterator[tuple[Key, str]]:
    """What a stand-in has too little of, and published weights that are not there and cannot be downloaded."""
    experiment, parameters = case.experiment, case.parameters
    if experiment.stands_in and isinstance(parameters, Checked):
        problems = parameters.problems(Setting(experiment.spec.mode, experiment.dataset))
        yield from ((problem.key, problem.message) for problem in problems if not problem.unused and not problem.note)
    if getattr(case.parameters, "weights", None):
        from bench.experiments.common.learning import fetch_weights  # noqa: PLC0415  (imports torch)

        yield from ((problem.key, problem.message) for problem in fetch_weights(case.parameters))


def _off_hosts(hosts: Hosts | None, shaping: ShapingBackend, case: Case) -> Iterator[tuple[Key, str]]:
    """What a live case asks for that ``hosts`` cannot do."""
    mode, parameters = case.experiment.spec.mode, case.parameters
    if hosts is None or mode != "live":
        return
    if isinstance(parameters, Checked):
        problems = parameters.problems(Setting(mode, case.experiment.dataset, shaping, hosts=_named(hosts)))
        yield from ((problem.key, problem.message) for problem in problems if not problem.unused and not problem.note)
    for key, link in _links(parameters, ()):
        if files := files_of(link):
            yield (*key, "trace"), f"hosts do not have the file {', '.join(files)}; name a packaged trace"


def _named(hosts: Hosts | None) -> frozenset[str] | None:
    return None if hosts is None else frozenset(hosts.nodes)


def _notes(hosts: frozenset[str] | None, case: Case) -> Iterator[tuple[Key, str]]:
    if isinstance(case.parameters, Checked):
        problems = case.parameters.problems(Setting(case.experiment.spec.mode, case.experiment.dataset, hosts=hosts))
        yield from ((problem.key, problem.message) for problem in problems if problem.note)


def misfits(parameters: Any, mode: Mode, dataset: str, shaping: ShapingBackend) -> Iterator[tuple[Key, str]]:
    """(key, message) of every property of a link anywhere in ``parameters`` that ``shaping`` cannot provide."""
    if mode == "in-process" or shaping == "none":
        return
    if isinstance(parameters, Checked):
        problems = parameters.problems(Setting(mode, dataset, shaping))
        yield from ((problem.key, problem.message) for problem in problems if not problem.unused and not problem.note)
    for key, link in _links(parameters, ()):
        if link.half_duplex and shaping in ("kernel", "tbf+emulated"):
            yield (*key, "half_duplex"), "the kernel's links have two directions of their own; give --shaping emulated"
        if shaping in ("kernel", "tbf+emulated"):
            yield from (((*key, "trace"), message) for message in _not_followed(link))
        if shaping == "kernel":
            continue
        for direction, profile in (("up", link.up), ("down", link.down)):
            try:
                profile.check_stream()
            except ValueError as error:
                yield (*key, direction), str(error)


def _not_followed(link: Duplex) -> Iterator[str]:
    """What keeps the kernel from following the traces of ``link``.

    Each change takes tc about a millisecond, and a packet that came while the rate was 0 leaves by that rate.
    """
    with suppress(TraceError):  # reported by the experiment
        if (step_s := least_step_s(link)) < KERNEL_STEP_S:
            yield f"changes after {step_s:g} s, and the kernel's links after {KERNEL_STEP_S} s; give --shaping emulated"
        elif stalls(link):
            yield "its rate is 0 at times, from which the kernel's links do not recover; give --shaping emulated"


def _links(value: Any, key: Key) -> Iterator[tuple[Key, Duplex]]:
    if isinstance(value, Duplex):
        yield key, value
        return
    parts: Any = ()
    if isinstance(value, msgspec.Struct):
        parts = [(field.encode_name, getattr(value, field.name)) for field in msgspec.structs.fields(value)]
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for name, part in parts:
        yield from _links(part, (*key, name))


def _selected(known: list[Experiment], globs: Sequence[str]) -> list[Experiment]:
    names = [experiment.name for experiment in known]
    if unmatched := [glob for glob in globs if not any(_matches(experiment, glob) for experiment in known)]:
        raise InputError([f"--only: no experiment matches {glob}{did_you_mean(glob, names)}" for glob in unmatched])
    return [one for one in known if not globs or any(_matches(one, glob) for glob in globs)]


def _matches(experiment: Experiment, glob: str) -> bool:
    return fnmatchcase(experiment.name, glob) or fnmatchcase(experiment.spec.name, glob)


@dataclass
class RunOutcome:
    """Outcome of a run: the reason of each failure by experiment, of this run and of those that it resumes."""

    folder: Path
    failures: dict[str, str] = field(default_factory=dict)
    earlier_failures: dict[str, str] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)  # cases that failed before this process took the run over
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0, 3 where an experiment failed, 130 after Ctrl-C."""
        return 130 if self.interrupted else 3 if self.failures else 0


class ExperimentStatus(NamedTuple):
    status: Literal["done", "failed", "skipped"]
    reason: str | None = None


def status(plan: RunPlan, experiment: Experiment, recorded: Container[str], outcome: RunOutcome) -> ExperimentStatus:
    """Status of ``experiment`` so far; ``recorded`` holds the keys of recorded cases."""
    if skipped := experiment.skipped(plan.options.scale):
        return ExperimentStatus("skipped", skipped)
    if failure := (outcome.earlier_failures | outcome.failures).get(experiment.name):
        return ExperimentStatus("failed", failure)
    cases = plan.cases[experiment.name]
    if plan.options.shard and experiment in plan.selected:
        cases = [case for case in plan.selected_cases if case.experiment is experiment]
    missing = sum(case.key not in recorded for case in cases)
    if not missing:
        return ExperimentStatus("done")
    if experiment not in plan.selected:
        by = f"no need of claim {' '.join(plan.options.claims)}" if plan.options.claims else ""
        return ExperimentStatus("skipped", by or f"not selected by --only {' '.join(plan.options.only)}")
    why = "interrupted" if outcome.interrupted else "did not end"
    return ExperimentStatus("skipped", f"{why}: {missing} of {len(cases)} cases were not run")
