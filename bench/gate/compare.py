"""Gate for CI: compares the records of a run with those of a baseline, metric by metric.

A baseline is a file with a header ``{"gate": 1, "suites": {name: sha256}}`` and a record a line. A run's own
``records.jsonl`` can be used as well; then the hashes of the suites are not compared. The rules come from the
``environment.json`` of the run; every number of a suite that was not run is missing. Times are gated only as
ratios measured in one run: a rule that matches seconds is an error.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bench.gate.conditions import facts
from reports.record import CaseValue, Record

GATE_VERSION = 1  # of the header
HASH = 16  # hexadecimal digits of a case's hash
CONDITIONS = ("schema", "mode", "scale", "dataset", "shaping", "device", "precision", "set")
MOST_LINES = 500_000  # of a file of records, which take 1 KB of memory each
TIMES = ("s", "ms", "us", "µs", "ns", "min", "h", "seconds")

Direction = Literal["both", "lower-is-worse", "higher-is-worse"]
NumberStatus = Literal["ok", "regression", "missing", "new"]
RecordKey = tuple[str, str, str, tuple[tuple[str, CaseValue], ...], int]  # suite, experiment, metric, case, seed


class GateInputError(ValueError):
    """A run or baseline that cannot be compared: unreadable, empty, under other conditions, or gated by time."""


class GateRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of a suite's ``gate``: how far a metric may move; without ``tolerance`` or ``relative`` not at all."""

    metric: str  # a glob (``*_bytes``), like ``experiment``; the first rule that matches counts
    experiment: str = "*"
    tolerance: float | None = None  # in the metric's unit
    relative: float | None = None  # fraction of the baseline
    direction: Direction = "both"

    def __post_init__(self) -> None:
        if self.tolerance is not None and self.relative is not None:
            raise ValueError(f"gate {self.metric}: got tolerance and relative, give only one")
        for bound in (self.tolerance or 0, self.relative or 0):
            if not 0 <= bound < math.inf:
                raise ValueError(f"gate {self.metric}: got {bound}; tolerance and relative are finite, from 0 on")

    def allowed(self, baseline: float) -> float:
        """Accepted distance from ``baseline``, in the metric's unit."""
        return min(self.tolerance or abs(baseline) * (self.relative or 0.0), sys.float_info.max)

    def worse_by(self, baseline: float, measured: float) -> float:
        """Distance of ``measured`` on the wrong side of ``baseline``; negative on the right side."""
        change = measured - baseline
        return {"both": abs(change), "lower-is-worse": -change, "higher-is-worse": change}[self.direction]


class CaseHash(NamedTuple):
    """Digests of a case: of its parameters, and of all content that decides it, code and data too."""

    definition: str
    content: str


class _RecordedCase(msgspec.Struct):
    """A line of a run's ``.cases.jsonl``, as far as the gate needs it."""

    suite: str
    experiment: str
    case: dict[str, CaseValue]
    sha256: str
    definition: str


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    gate: int
    suites: dict[str, str]  # name -> sha256 of all that its cases are defined by
    cases: dict[str, CaseHash] = {}
    facts: dict[str, str] = {}  # conditions of the run, see bench.gate.conditions


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of the comparison: records and hashes of suites; of a run also its rules and failures."""

    name: str
    records: list[Record]
    suites: dict[str, str] = {}
    rules: dict[str, list[GateRule]] = {}
    failed: list[str] = []  # experiments
    cases: dict[str, CaseHash] = {}  # suite/experiment{case}, see case_key
    facts: dict[str, str] = {}


class GateOutcome(msgspec.Struct, frozen=True):
    """Outcome of one gated number. ``allowed`` is the accepted distance, in the metric's unit."""

    suite: str
    experiment: str
    metric: str
    case: dict[str, CaseValue]
    seed: int
    unit: str
    baseline: float | None
    measured: float | None
    allowed: float
    status: NumberStatus
    direction: Direction = "both"  # of its rule

    @property
    def failed(self) -> bool:
        return self.status in ("regression", "missing")


def read_run(directory: Path) -> Side:
    """Read the run in ``directory``: records, and rules and hashes of its suites. Raises GateInputError."""
    path = directory / "environment.json"
    try:
        environment: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        suites = environment.get("suites", [])
        rules = {suite["name"]: msgspec.convert(suite.get("gate", []), list[GateRule]) for suite in suites}
        hashes = {suite["name"]: suite["sha256"] for suite in suites if "sha256" in suite}
        failed = [one["name"] for s in suites for one in s.get("experiments", []) if one.get("status") == "failed"]
    except OSError as error:
        raise GateInputError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, TypeError, KeyError, AttributeError) as error:
        raise GateInputError(f"{path}: {error}; expected a file that `bench run` wrote") from None
    records = _records(directory / "records.jsonl")[1]
    run = Side(name=str(directory), records=records, suites=hashes, rules=rules, failed=failed)
    return msgspec.structs.replace(run, cases=_cases(directory / ".cases.jsonl"), facts=facts(environment))


def read_baseline(path: Path) -> Side:
    """Read the baseline in ``path``, or the run in that folder. Raises GateInputError."""
    if path.is_dir():
        return read_run(path)
    header, records = _records(path)
    header = header or Header(gate=GATE_VERSION, suites={})
    return Side(name=str(path), records=records, suites=header.suites, cases=header.cases, facts=header.facts)


def case_key(suite: str, experiment: str, case: dict[str, CaseValue]) -> str:
    """The name of a case in a baseline."""
    return f"{suite}/{experiment}{msgspec.json.encode(case, order='sorted').decode()}"


def _cases(path: Path) -> dict[str, CaseHash]:
    """The hashes of the cases that a run has recorded; none where they are not known."""
    found: dict[str, CaseHash] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(msgspec.DecodeError):  # torn, or of an older version
            one = msgspec.json.decode(line, type=_RecordedCase)
            hashes = CaseHash(one.definition[:HASH], one.sha256[:HASH])
            found[case_key(one.suite, one.experiment, one.case)] = hashes
    return found


def _records(path: Path) -> tuple[Header | None, list[Record]]:
    header, records = None, []
    lines: dict[RecordKey, int] = {}
    decode = msgspec.json.Decoder(Record).decode
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number > MOST_LINES:
                    raise GateInputError(f"{path}: has more than {MOST_LINES} lines; gate fewer metrics or suites")
                try:
                    if number == 1 and b'"gate"' in line and b'"metric"' not in line:
                        header = msgspec.json.decode(line, type=Header)
                        if header.gate != GATE_VERSION:
                            raise GateInputError(f"{path}:1: gate version {header.gate}, expected {GATE_VERSION}")
                    elif line.strip():
                        records.append(record := decode(line))
                        if (before := lines.setdefault(_key(record), number)) != number:
                            raise GateInputError(f"{path}:{number}: {_named(_key(record))} stands on line {before} too")
                except msgspec.DecodeError as error:
                    raise GateInputError(f"{path}:{number}: {error}") from None
    except OSError as error:
        raise GateInputError(f"{path}: {error.strerror}") from None
    if not records:
        raise GateInputError(f"{path}: has no records")
    return header, records


def _key(record: Record) -> RecordKey:
    case = tuple(sorted(record.case.items()))
    return record.suite, record.experiment, record.metric, case, record.seed


def _named(key: RecordKey) -> str:
    """A number as errors name it."""
    suite, experiment, metric, case, seed = key
    values = "".join(f" {name}={value}" for name, value in case)
    return f"{suite}/{experiment}/{metric}{values} seed {seed}"


def compare(run: Side, baseline: Side) -> list[GateOutcome]:
    """Compare every gated number, in the baseline's order, new ones last. Raises GateInputError.

    Seeds are compared one by one; a number stands on each side once, and both have the same conditions.
    """
    _check_conditions(run, baseline)
    suites = {record.suite for record in run.records}
    unknown = {(one.suite, one.experiment, one.metric) for one in baseline.records if one.suite not in suites}
    both = [*baseline.records, *run.records]
    rules = _rules(run, both)
    rules |= {key: GateRule(metric=key[2]) for key in unknown}
    before, after = _numbers(baseline, rules), _numbers(run, rules)
    if not before:
        raise GateInputError(f"{baseline.name}: no rule under `gate` of the run's suites matches its records")
    units = {(record.suite, record.experiment, record.metric): record.unit for record in both}
    return [
        _outcome(key, units[key[:3]], rules[key[:3]], before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
    ]


def _outcome(key: RecordKey, unit: str, rule: GateRule, before: float | None, after: float | None) -> GateOutcome:
    suite, experiment, metric, case, seed = key
    allowed = 0.0 if before is None else rule.allowed(before)
    status: NumberStatus = "ok"
    if before is None:
        status = "new"
    elif after is None:
        status = "missing"
    elif (worse := rule.worse_by(before, after)) > allowed and not math.isclose(worse, allowed, rel_tol=1e-9):
        status = "regression"
    found = (suite, experiment, metric, dict(case), seed, unit, before, after, allowed, status, rule.direction)
    return GateOutcome(*found)


def _rules(run: Side, records: Iterable[Record]) -> dict[tuple[str, str, str], GateRule]:
    """The rule of every gated (suite, experiment, metric).

    Raises GateInputError if a rule matches a time, as times differ between machines; those in virtual time do not.
    """
    found = {}
    for record in records:
        for rule in run.rules.get(record.suite, ()):
            if fnmatchcase(record.metric, rule.metric) and fnmatchcase(record.experiment, rule.experiment):
                if record.mode != "virtual" and (record.unit in TIMES or record.unit.endswith("/s")):
                    what = f"{record.suite}/{record.experiment}/{record.metric}"
                    raise GateInputError(
                        f"gate {rule.metric} matches {what}, a time ({record.unit}); "
                        "gate a ratio of two times of one run instead"
                    )
                found[record.suite, record.experiment, record.metric] = rule
                break
    return found


def _numbers(side: Side, rules: dict[tuple[str, str, str], GateRule]) -> dict[RecordKey, float]:
    numbers: dict[RecordKey, float] = {}
    for record in side.records:
        if (record.suite, record.experiment, record.metric) in rules:
            if (key := _key(record)) in numbers:
                raise GateInputError(f"{side.name}: {_named(key)} stands there twice")
            numbers[key] = record.value
    return numbers


def _check_conditions(run: Side, baseline: Side) -> None:
    common = {record.suite for record in run.records} & {record.suite for record in baseline.records}
    if not common:
        raise GateInputError(f"{run.name} and {baseline.name} have no suite in common")
    for suite in sorted(common):
        seeds = [{one.seed for one in side.records if one.suite == suite} for side in (run, baseline)]
        if not (seeds[0] <= seeds[1] or seeds[1] <= seeds[0]):  # a subset: some failed, or some are new
            raise GateInputError(f"suite {suite}: seeds {sorted(seeds[0])}, in the baseline {sorted(seeds[1])}")
    after, before = _conditions(run.records), _conditions(baseline.records)
    for experiment in sorted(after.keys() & before.keys()):
        for name, now, then in zip(CONDITIONS, after[experiment], before[experiment], strict=True):
            if now != then:
                was, is_now = (", ".join(sorted(one or "none" for one in values)) for values in (then, now))
                raise GateInputError(f"{'/'.join(experiment)}: {name} {is_now}, in the baseline {was}")
    _check_definitions(run, baseline, common)


def _check_definitions(run: Side, baseline: Side, suites: set[str]) -> None:
    """Refuse cases of other parameters: by their own hashes or, where these are not known, by those of suites."""
    if baseline.cases and run.cases:
        changed = [key for key, one in baseline.cases.items() if _differs(one, run.cases.get(key))]
    else:
        known = [suite for suite in sorted(suites) if suite in baseline.suites]
        changed = [f"suite {suite}" for suite in known if baseline.suites[suite] != run.suites.get(suite)]
    if changed:
        what = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise GateInputError(f"{what}: other parameters than in {baseline.name}; make it again by --update")


def _differs(before: CaseHash, after: CaseHash | None) -> bool:
    return after is not None and after.definition != before.definition


def _conditions(records: Sequence[Record]) -> dict[tuple[str, str], list[set[str]]]:
    found: dict[tuple[str, str], list[set[str]]] = {}
    for record in records:
        sets = found.setdefault((record.suite, record.experiment), [set() for _ in CONDITIONS])
        for values, name in zip(sets, CONDITIONS, strict=True):
            values.add(str(getattr(record, name)))
    return found


def write_baseline(path: Path, run: Side) -> int:
    """Write the gated records of ``run`` to ``path``; return their number. Raises GateInputError after failures."""
    if run.failed:
        raise GateInputError(f"{run.name}: cannot become a baseline, as {', '.join(run.failed)} failed")
    rules = _rules(run, run.records)
    records = [one for one in run.records if (one.suite, one.experiment, one.metric) in rules]
    if not records:
        raise GateInputError(f"{run.name}: no rule under `gate` of its suites matches its records")
    header = Header(gate=GATE_VERSION, suites=run.suites, cases=run.cases, facts=run.facts)
    path.write_bytes(msgspec.json.Encoder().encode_lines([header, *records]))
    return len(records)
