"""The folder of a run, new or resumed: conditions, claims, report and logs; ``journal`` keeps the records."""

import itertools
import logging
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.execution import environment as conditions
from bench.execution.journal import Journal, UnwritableError
from bench.execution.limits.supervisor import started_process
from bench.execution.lock import NAME, in_use, locked
from bench.execution.plan import RunOutcome, RunPlan, status
from bench.suite.document import InputError
from bench.suite.experiment import SAMPLES
from bench.suite.identity import RESULTS_VERSION, digest
from bench.suite.judging import judge_suites, write_claims
from bench.suite.schema import Case, Experiment, Suite
from nodes.errors import one_line, utf8
from nodes.files import replacing
from reports.claims.verdict import Judgement
from reports.pages.report import write_report
from reports.record import read_records
from reports.run_environment import read_environment

RunEnvironment = dict[str, Any]

logger = logging.getLogger(__name__)


@contextmanager
def open_output(plan: RunPlan) -> Iterator["Output"]:
    """The folder of a run, which no other run uses meanwhile.

    Raises InputError if another does, or if it holds something else, or a run that cannot be resumed.
    """
    folder = plan.options.out
    with ExitStack() as stack:
        try:
            if folder is None:
                folder = _new_folder(plan.name)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                _check_free(folder, plan.options.resume)  # first, as a lock is left in no folder of another use
            stack.enter_context(locked(folder))
            _check_free(folder, plan.options.resume)
            output = Output(plan, folder)
        except OSError as error:
            raise InputError([f"--out: {folder}: {error.strerror}"]) from None
        yield output


def _new_folder(name: str) -> Path:
    base = Path("runs", _run_name(name))
    base.parent.mkdir(parents=True, exist_ok=True)
    paths = itertools.chain([base], (base.with_name(f"{base.name}-{number}") for number in itertools.count(2)))
    while True:
        with suppress(FileExistsError):  # of a run that started in the same second
            (path := next(paths)).mkdir()
            return path


def _check_free(folder: Path, resume: bool) -> None:
    if not resume and _holds_something(folder):
        problem = in_use(folder) or f"{folder} is not empty; give --resume to continue the run there"
        raise InputError([f"--out: {problem}"])
    if resume:
        _read_environment(folder)


def _holds_something(folder: Path) -> bool:
    """Whether there is more in ``folder`` than a run that was killed at its very beginning leaves."""
    begun = ("records.jsonl", ".cases.jsonl", "run.log")
    found = [path for path in folder.iterdir() if path.name not in (NAME, ".environment.json.partial")]
    return any(path.name not in begun or path.is_dir() or path.stat().st_size for path in found)


class Output:
    """The folder of one run."""

    def __init__(self, plan: RunPlan, folder: Path) -> None:
        self._plan, self.folder = plan, folder
        earlier = _read_environment(folder)
        self.environment = _environment(plan) | {"run": _run_name(plan.name)}
        if earlier:
            self._check_same(earlier)
            self.environment |= {key: earlier[key] for key in ("run", "started")}
            self.environment |= {key: earlier.get(key, {}) for key in ("measured_hosts", "restarts")}
        self.journal = Journal(folder)
        self._check_recorded(earlier)
        self._remove_old_scratch()
        self.scratch_folder.mkdir(exist_ok=True)
        self.earlier_failures = {
            f"{suite['name']}/{experiment['name']}": experiment["reason"]
            for suite in earlier.get("suites", [])
            for experiment in suite["experiments"]
            if experiment["status"] == "failed"
        }

    @property
    def scratch_folder(self) -> Path:
        """The folder of ``scratch``, made once: a run's folder that vanishes is not made again."""
        return self.folder / ".scratch"

    @property
    def run(self) -> str:
        return str(self.environment["run"])

    def _check_same(self, earlier: RunEnvironment) -> None:
        different = conditions.differences(conditions.SAME, earlier, self.environment)
        lines = [f"{key.removeprefix('versions.')} was {then}, is now {now}" for key, (then, now) in different.items()]
        if lines:
            raise InputError([f"--resume: {self.folder}: {line}; give another --out" for line in lines])
        for key, (then, now) in conditions.differences(conditions.TOLD, earlier, self.environment).items():
            logger.warning("--resume: %s: %s was %s, is now %s", self.folder, key, then, now)
        noted = {key: value for key, value in earlier.items() if key in conditions.NOTED}
        self.environment["earlier"] = [*earlier.get("earlier", []), noted]

    def _check_recorded(self, earlier: RunEnvironment) -> None:
        """Refuse recorded cases that are no longer those asked for, or drop them where that is asked for."""
        asked = {case.key: case for cases in self._plan.cases.values() for case in cases}
        same = {key for key, done in self.journal.done.items() if key in asked and asked[key].sha256 == done.sha256}
        changed = {key: done for key, done in self.journal.done.items() if key not in same}
        if changed and self._plan.options.rerun_changed:
            self.journal.drop(changed)
            logger.warning("--rerun-changed: dropped %d recorded cases", len(changed))
        elif changed:
            names = sorted({f"{done.suite}/{done.experiment}" for done in changed.values()})
            what = f"{len(changed)} recorded case{'s' * (len(changed) != 1)} of {', '.join(names)}"
            decided_by = {source.name for key in changed.keys() & asked.keys() for source in asked[key].sources}
            ways = "give another --out, or --rerun-changed to drop these cases and run them again"
            raise InputError([f"--resume: {self.folder}: {self._change(earlier, decided_by)} {what}; {ways}"])

    def _change(self, earlier: RunEnvironment, decided_by: set[str]) -> str:
        """What has changed, as a sentence of which the object, recorded cases, follows."""
        if earlier.get("results") != RESULTS_VERSION:
            return f"results version was {earlier.get('results', 'unknown')}, is now {RESULTS_VERSION}, which decides"
        options = conditions.differences(("set", "seeds"), earlier, self.environment)
        told = [f"--{key} was {_given(then)}, is now {_given(now)}" for key, (then, now) in options.items()]
        if told:
            return f"{', '.join(told)}, which decides"
        now = {(suite.file.name, *source) for suite in self._plan.suites for source in self._sources(suite).items()}
        then = {(suite["name"], *source) for suite in earlier["suites"] for source in suite["sources"].items()}
        gone = {name for _, name, _ in then} - {name for _, name, _ in now}
        files = sorted({name for _, name, _ in then - now} & (decided_by | gone))
        return f"{', '.join(files)} has changed, which decides" if files else "the suites no longer define"

    def _remove_old_scratch(self) -> None:
        """Remove files of cases that are no longer asked for, such as checkpoints of other code."""
        asked = {self.scratch(case) for cases in self._plan.cases.values() for case in cases}
        for path in set(self.scratch_folder.glob("*")) - asked:
            shutil.rmtree(path, ignore_errors=True)
        names = {path.name for path in asked}
        for path in (self.folder / SAMPLES).glob("*.jsonl"):
            if path.stem not in names:
                path.unlink()

    def _sources(self, suite: Suite) -> dict[str, str]:
        cases = (case for experiment in suite.experiments for case in self._plan.cases[experiment.name])
        return {source.name: source.sha256 for case in cases for source in case.sources}

    def recorded_failures(self) -> dict[str, str]:
        """Selected experiments with recorded cases of which some values were not finite, with the reason."""
        selected = {experiment.name for experiment in self._plan.selected}
        done = self.journal.done.values()
        failures = {f"{one.suite}/{one.experiment}": one.failure for one in done if one.failure}
        return {name: failure for name, failure in failures.items() if name in selected}

    def scratch(self, case: Case) -> Path:
        """The folder for files of ``case``, such as checkpoints; kept until the case is recorded."""
        name = case.experiment.name.replace("/", "-")
        return self.scratch_folder / f"{name}-{digest([case.key, case.sha256])[:12]}"

    def keep_samples(self, case: Case) -> None:
        """Keep what ``case`` has logged sample by sample, each line with its case. Raises UnwritableError."""
        scratch = self.scratch(case)
        if not (logged := sorted((scratch / SAMPLES).glob("*.jsonl"))):
            return
        of_case = {"suite": case.experiment.suite, "experiment": case.experiment.spec.name, "seed": case.seed}
        kept = self.folder / SAMPLES / f"{scratch.name}.jsonl"
        try:
            kept.parent.mkdir(exist_ok=True)
            with replacing(kept) as file:
                for path in logged:
                    head = of_case | {"case": case.case, "training": path.stem}
                    for line in path.read_bytes().splitlines():
                        file.write(msgspec.json.encode(head | msgspec.json.decode(line)) + b"\n")
        except OSError as error:
            raise UnwritableError(error) from error

    def samples_line(self) -> str:
        """Where samples were logged, as a sentence."""
        folder = self.folder / SAMPLES
        if folder.is_dir():
            return f"samples: {folder}"
        return "--log-samples: no experiment that was run logs samples; dynsplit and edge_privacy do"

    def log_error(self, title: str, text: str) -> None:
        try:
            with (self.folder / "errors.log").open("a", encoding="utf-8") as file:
                file.write(f"{title}\n{text}\n")
        except OSError as error:  # the records of other cases are worth more than this log
            logger.warning("errors.log: %s: the traceback of %s is lost", error.strerror, title)

    def note_restarts(self, title: str, lines: list[str]) -> None:
        """Keep in ``environment.json`` why nodes of a case started again; they may have run in another process."""
        logger.info("%s: nodes started again %d times", title, len(lines))
        self.environment["restarts"][title] = [*self.environment["restarts"].get(title, []), *lines]

    def write_environment(self, outcome: RunOutcome, ended: bool = False) -> None:
        """Write ``environment.json`` with the status of each experiment so far. Raises UnwritableError."""
        self.environment["ended"] = _now() if ended else None
        if self._plan.hosts is not None:
            self.environment["measured_hosts"] |= msgspec.to_builtins(self._plan.hosts.measured)
        self.environment["suites"] = [self._suite(suite, outcome) for suite in self._plan.suites]
        try:
            _write_json(self.folder / "environment.json", self.environment)
        except OSError as error:
            raise UnwritableError(error) from error

    def _suite(self, suite: Suite, outcome: RunOutcome) -> RunEnvironment:
        return {
            **_fields(suite.file, "name", "title", "paper", "description", "gate", "fronts"),
            "path": utf8(str(suite.path)),
            "sha256": suite.sha256(self._plan.options.scale),
            "sources": self._sources(suite),
            "experiments": [self._experiment(experiment, outcome) for experiment in suite.experiments],
        }

    def _experiment(self, experiment: Experiment, outcome: RunOutcome) -> RunEnvironment:
        spec = experiment.spec
        done = self.journal.done.values()
        seconds = [one.seconds for one in done if (one.suite, one.experiment) == (experiment.suite, spec.name)]
        return {
            **_fields(spec, "name", "title", "description", "figures"),
            **status(self._plan, experiment, self.journal.done, outcome)._asdict(),
            "seconds": sum(seconds) if seconds else None,
        }

    def finish(self, outcome: RunOutcome) -> tuple[Path, list[Judgement]]:
        """Judge the claims and write the report, whose path is returned with the verdicts."""
        with suppress(OSError):  # not empty if a case was not recorded
            self.scratch_folder.rmdir()
        self.write_environment(outcome, ended=True)
        records = list(read_records(self.journal.records_path))
        claims = {suite.file.name: suite.file.claims for suite in self._plan.suites}
        judgements = judge_suites(claims, records)
        write_claims(self.folder, judgements)
        return write_report(self.folder), judgements


def _run_name(name: str) -> str:
    return f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _environment(plan: RunPlan) -> RunEnvironment:
    options = plan.options.plain()
    options["data"] = options["data"] and utf8(options["data"])
    options["set"] = list(options["set"])  # as it is read again
    return {
        **{name: options[name] for name in ("scale", "seed", "set", "seeds", "shard", "cluster", "data", "arguments")},
        **_fields(plan, "shaping", "device", "dataset", "notes"),
        **{
            "machine": conditions.machine(),
            "versions": conditions.versions(),
            "commit": conditions.commit(),
            "results": RESULTS_VERSION,
        },
        **{"host": platform.node(), "process": started_process()},
        **{"hosts": plan.hosts and plan.hosts.addresses, "measured_hosts": {}, "restarts": {}},
        **{"started": _now(), "ended": None, "suites": []},
    }


def _fields(one: object, *names: str) -> dict[str, Any]:
    return {name: getattr(one, name) for name in names}


def _given(option: Any) -> str:
    return ", ".join(map(str, option)) if isinstance(option, list) and option else str(option or "not given")


def _read_environment(folder: Path) -> RunEnvironment:
    """The conditions of the run in ``folder``, none if it is empty. Raises InputError if it holds something else."""
    if not _holds_something(folder):
        return {}
    try:
        earlier = read_environment((folder / "environment.json").read_bytes())
        if missing := {"run", "started", "suites"} - earlier.keys():
            raise ValueError(f"{', '.join(sorted(missing))} missing")
    except (OSError, ValueError) as error:
        why = f"holds no run of `bench run` ({one_line(error)}); give another --out"
        raise InputError([f"--resume: {folder} {why}"]) from None
    return earlier


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
