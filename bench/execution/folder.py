"""The folder of a run, new or resumed: conditions, claims, report and logs; ``journal`` keeps the records."""

import itertools
import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.execution import environment as conditions
from bench.execution.journal import Journal
from bench.execution.plan import RunOutcome, RunPlan, status
from bench.suite.document import InputError
from bench.suite.schema import Case, Experiment, Suite, digest
from nodes.files import replacing
from reports.claims.verdict import judge
from reports.pages.report import write_report
from reports.record import read_records

# What a run and its resumption must have in common.
SAME = ("scale", "seed", "dataset", "shaping", "device", "machine", "versions")
RunEnvironment = dict[str, Any]

logger = logging.getLogger(__name__)


class Output:
    """The folder of one run. Raises InputError if it holds something else, or a run that cannot be resumed."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self.folder = plan.options.out or _default_folder(plan.name)
        try:
            found = self.folder.is_dir() and any(self.folder.iterdir())
        except OSError as error:
            raise InputError([f"--out: {self.folder}: {error.strerror}"]) from None
        if found and not plan.options.resume:
            raise InputError([f"--out: {self.folder} is not empty; give --resume to continue the run there"])
        earlier = _read_environment(self.folder / "environment.json") if found else {}
        self.environment = _environment(plan) | {"run": _run_name(plan.name)}
        if earlier:
            self._check_same(earlier)
            self.environment |= {key: earlier[key] for key in ("run", "started")}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.journal = Journal(self.folder)
        except OSError as error:
            raise InputError([f"--out: {self.folder}: {error.strerror}"]) from None
        self._check_recorded()
        self.earlier_failures = {
            f"{suite['name']}/{experiment['name']}": experiment["reason"]
            for suite in earlier.get("suites", [])
            for experiment in suite["experiments"]
            if experiment["status"] == "failed"
        }

    @property
    def run(self) -> str:
        return str(self.environment["run"])

    def _check_same(self, earlier: RunEnvironment) -> None:
        lines = [
            f"--resume: {self.folder}: {key} was {earlier.get(key)}, is now {self.environment[key]}"
            for key in SAME
            if earlier.get(key) != self.environment[key]
        ]
        if lines:
            raise InputError(lines)

    def _check_recorded(self) -> None:
        asked = {case.key: case for cases in self._plan.cases.values() for case in cases}
        changed = {
            f"{done.suite}/{done.experiment}"
            for key, done in self.journal.done.items()
            if key not in asked or asked[key].sha256 != done.sha256
        }
        if changed:
            names = ", ".join(sorted(changed))
            raise InputError([f"--resume: {self.folder}: the suites now define other cases in {names}"])

    def recorded_failures(self) -> dict[str, str]:
        """Selected experiments with recorded cases of which some values were not finite, with the reason."""
        selected = {experiment.name for experiment in self._plan.selected}
        done = self.journal.done.values()
        failures = {f"{one.suite}/{one.experiment}": one.failure for one in done if one.failure}
        return {name: failure for name, failure in failures.items() if name in selected}

    def scratch(self, case: Case) -> Path:
        """The folder for files of ``case``, such as checkpoints; kept until the case is recorded."""
        name = case.experiment.name.replace("/", "-")
        return self.folder / ".scratch" / f"{name}-{digest([case.key, case.sha256])[:12]}"

    def log_error(self, title: str, text: str) -> None:
        try:
            with (self.folder / "errors.log").open("a", encoding="utf-8") as file:
                file.write(f"{title}\n{text}\n")
        except OSError as error:  # the records of other cases are worth more than this log
            logger.warning("errors.log: %s: the traceback of %s is lost", error.strerror, title)

    def write_environment(self, outcome: RunOutcome, ended: bool = False) -> None:
        """Write ``environment.json`` with the status of each experiment so far."""
        self.environment["ended"] = _now() if ended else None
        self.environment["suites"] = [self._suite(suite, outcome) for suite in self._plan.suites]
        _write_json(self.folder / "environment.json", self.environment)

    def _suite(self, suite: Suite, outcome: RunOutcome) -> RunEnvironment:
        return {
            **_fields(suite.file, "name", "title", "description", "gate", "fronts"),
            "path": str(suite.path),
            "sha256": suite.sha256(self._plan.options.scale),
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

    def finish(self, outcome: RunOutcome) -> Path:
        """Judge the claims, write the report and return its path."""
        with suppress(OSError):  # not empty if a case was not recorded
            (self.folder / ".scratch").rmdir()
        self.write_environment(outcome, ended=True)
        records = list(read_records(self.journal.records_path))
        judged = [judge(claim, suite.file.name, records) for suite in self._plan.suites for claim in suite.file.claims]
        _write_json(self.folder / "claims.json", judged)
        return write_report(self.folder)


def _default_folder(name: str) -> Path:
    base = Path("runs", _run_name(name))
    names = itertools.chain([base], (base.with_name(f"{base.name}-{n}") for n in itertools.count(2)))
    return next(path for path in names if not path.exists())


def _run_name(name: str) -> str:
    return f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _environment(plan: RunPlan) -> RunEnvironment:
    options = plan.options.plain()
    return {
        **{name: options[name] for name in ("scale", "seed", "data", "arguments")},
        **_fields(plan, "shaping", "device", "dataset", "notes"),
        **{"machine": conditions.machine(), "versions": conditions.versions()},
        **{"started": _now(), "ended": None, "suites": []},
    }


def _fields(one: object, *names: str) -> dict[str, Any]:
    return {name: getattr(one, name) for name in names}


def _read_environment(path: Path) -> RunEnvironment:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunEnvironment)
    except (OSError, msgspec.DecodeError):
        raise InputError([f"--resume: {path.parent} holds no run of `bench run`; give another --out"]) from None


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
