"""One folder from those of several runs of the same suites, such as shards; it reports and resumes like any other."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.execution import environment as conditions
from bench.execution.journal import Done, cases_in, write_cases
from bench.execution.lock import in_use
from bench.suite.document import InputError
from bench.suite.judging import judge_again
from nodes.files import replacing
from reports.pages.report import ReportError, read_run, write_report
from reports.record import CaseValue

SAME = (*conditions.SAME, "results", "set", "seeds")  # of environment.json, in all folders
OF_SUITE = ("sha256", "sources")
EnvironmentTree = dict[str, Any]


class Recorded(NamedTuple):
    """A case of a folder and the lines of its records."""

    folder: Path
    done: Done
    lines: bytes


class Merged(NamedTuple):
    """What a merge has made, and lines about it."""

    folder: Path
    cases: int
    notes: list[str]


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Write the recorded cases of ``folders`` to ``out``. Raises InputError; then nothing is written."""
    if out.is_dir() and any(out.iterdir()):
        raise InputError([f"--out: {out} is not empty"])
    environments = [_environment(folder) for folder in folders]
    problems = [line for other in range(1, len(folders)) for line in _differences(folders, environments, other)]
    if problems:
        raise InputError(problems)
    cases = _joined(one for folder in folders for one in _recorded(folder))
    environment = _one_environment(environments)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_cases(out, [(one.done, one.lines) for one in _in_order(cases, environment)])
        with replacing(out / "environment.json") as file:
            file.write(msgspec.json.format(msgspec.json.encode(environment), indent=2) + b"\n")
        notes = [*_notes(environments), *(line for line in judge_again(out) if not line.endswith(", new"))]
        write_report(out)
    except (OSError, ReportError) as error:
        raise InputError([f"--out: {out}: {error}"]) from None
    return Merged(out, len(cases), notes)


def _environment(folder: Path) -> EnvironmentTree:
    if running := in_use(folder):
        raise InputError([running])
    try:
        environment = read_run(folder)[2]
    except ReportError as error:
        raise InputError([str(error)]) from None
    if not environment.get("suites"):
        raise InputError([f"{folder}: has no environment.json; give the output folder of `bench run`"])
    return environment


def _differences(folders: Sequence[Path], environments: Sequence[EnvironmentTree], other: int) -> Iterator[str]:
    first, second = environments[0], environments[other]
    where = f"{folders[other]}"
    for key, (then, now) in conditions.differences(SAME, first, second).items():
        yield f"{where}: {key} is {_shown(now)}, in {folders[0]} {_shown(then)}; only runs of the same are merged"
    suites = [{suite["name"]: suite for suite in one["suites"]} for one in (first, second)]
    if suites[0].keys() != suites[1].keys():
        yield f"{where}: ran the suites {_shown(list(suites[1]))}, {folders[0]} {_shown(list(suites[0]))}"
        return
    for name, suite in suites[0].items():
        if any(suite.get(key) != suites[1][name].get(key) for key in OF_SUITE):
            yield f"{where}: the suite {name} or a file of it is another than in {folders[0]}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) and value else str(value or "not given")


def _recorded(folder: Path) -> Iterator[Recorded]:
    for done, lines in cases_in(folder):
        yield Recorded(folder, done, lines)


def _joined(found: Iterable[Recorded]) -> dict[str, Recorded]:
    """Each case once. Raises InputError for cases that two folders have with different values."""
    cases: dict[str, Recorded] = {}
    problems = []
    for one in found:
        known = cases.setdefault(one.done.key, one)
        if known is not one and (known.done.sha256, _values(known.lines)) != (one.done.sha256, _values(one.lines)):
            case = "".join(f" {key}={value}" for key, value in one.done.case.items())
            title = f"{one.done.suite}/{one.done.experiment}{case} seed {one.done.seed}"
            problems.append(f"{one.folder}: {title}: recorded with other values in {known.folder}")
    if problems:
        raise InputError(problems)
    return cases


def _values(lines: bytes) -> list[dict[str, Any]]:
    """The records in ``lines`` without the name of their run."""
    return [
        {key: value for key, value in msgspec.json.decode(line).items() if key != "run"} for line in lines.splitlines()
    ]


def _in_order(cases: dict[str, Recorded], environment: EnvironmentTree) -> list[Recorded]:
    """``cases`` by suite, experiment, values (numbers ascending, texts as first met) and seed."""
    experiments = [(suite["name"], one["name"]) for suite in environment["suites"] for one in suite["experiments"]]
    texts = list(dict.fromkeys(str(value) for one in cases.values() for value in one.done.case.values()))
    place = {text: number for number, text in enumerate(texts)}

    def rank(value: CaseValue) -> tuple[float, int]:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (float(value), 0) if is_number else (float("inf"), place[str(value)])

    def order(one: Recorded) -> Any:
        done = one.done
        return (
            experiments.index((done.suite, done.experiment)),
            [rank(value) for value in done.case.values()],
            done.seed,
        )

    return sorted(cases.values(), key=order)


def _one_environment(environments: Sequence[EnvironmentTree]) -> EnvironmentTree:
    first = environments[0]
    ended = [str(one["ended"]) for one in environments if one.get("ended")]
    return first | {
        "started": min(one["started"] for one in environments),
        "ended": max(ended) if len(ended) == len(environments) else None,
        "shard": None,
        "merged": [{key: one.get(key) for key in ("run", "shard", *conditions.NOTED)} for one in environments],
        "notes": list(dict.fromkeys(note for one in environments for note in one.get("notes", ()))),
        "suites": [_suite(suite, environments) for suite in first["suites"]],
    }


def _suite(suite: EnvironmentTree, environments: Sequence[EnvironmentTree]) -> EnvironmentTree:
    same = [other for one in environments for other in one["suites"] if other["name"] == suite["name"]]
    experiments = [
        _experiment([one for other in same for one in other["experiments"] if one["name"] == experiment["name"]])
        for experiment in suite["experiments"]
    ]
    return suite | {"experiments": experiments}


def _experiment(parts: list[EnvironmentTree]) -> EnvironmentTree:
    """An experiment of all folders: failed if one of them failed, done if it is done in each."""
    worst = max(parts, key=lambda one: ("done", "skipped", "failed").index(one["status"]))
    seconds = [one["seconds"] for one in parts if one.get("seconds") is not None]
    return worst | {"seconds": sum(seconds) if seconds else None}


def _notes(environments: Sequence[EnvironmentTree]) -> Iterator[str]:
    shards = [one["shard"] for one in environments if one.get("shard")]
    for count in sorted({shard.partition("/")[2] for shard in shards}):
        there = {int(shard.partition("/")[0]) for shard in shards if shard.endswith(f"/{count}")}
        if missing := sorted(set(range(1, int(count) + 1)) - there):
            yield f"of {count} shards {', '.join(map(str, missing))} are missing; --resume runs their cases"
    told = {key for one in environments[1:] for key in conditions.differences(conditions.TOLD, environments[0], one)}
    if told:
        yield f"the runs differ in {', '.join(sorted(told))}, which decides times but no results"
