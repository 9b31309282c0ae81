"""What ``environment.json`` tells of a run, of which any key may be missing, as items of lists."""

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from reports.pages.document import Badge, Code, Words
from reports.record import Record

EnvironmentTree = dict[str, Any]  # content of environment.json
RUN = ("scale", "seed", "dataset", "shaping", "device", "commit")
COMMAND = 500  # characters of the command line, and of a case's restarts


def suites_of(records: Iterable[Record], environment: EnvironmentTree) -> list[EnvironmentTree]:
    """Suites and experiments of the environment, and those that only the records name."""
    listed = environment.get("suites", ())
    suites = {suite["name"]: {**suite, "experiments": list(suite.get("experiments", ()))} for suite in listed}
    known = {(name, experiment["name"]) for name, suite in suites.items() for experiment in suite["experiments"]}
    for name, experiment in dict.fromkeys((record.suite, record.experiment) for record in records):
        suite = suites.setdefault(name, {"name": name, "experiments": []})
        if (name, experiment) not in known:
            suite["experiments"].append({"name": experiment})
    return list(suites.values())


def suite_file(suite: EnvironmentTree) -> Words:
    """The file of a suite, and the digest of what it asks for."""
    if "path" not in suite and "sha256" not in suite:
        return ""
    digest: list[Words] = [", sha256 ", Code(suite["sha256"][:12])] if suite.get("sha256") else []
    return ["Suite ", Code(str(suite.get("path", "?"))), *digest]  # type: ignore[list-item]  # a list of Words is Words


def facts(environment: EnvironmentTree) -> Iterable[Words]:
    """Conditions of the run."""
    if run := _pairs({key: environment.get(key) for key in RUN}):
        yield f"Run: {run}"
    for one in environment.get("merged", ()):
        shard = f", shard {one['shard']}" if one.get("shard") else ""
        yield f"Merged: {one.get('run')}{shard}, on {one.get('host')}"
    if "started" in environment:
        yield f"Time: {time(environment)}"
    for key in ("machine", "versions"):
        if environment.get(key):
            yield f"{key.capitalize()}: {_pairs(environment[key])}"
    if environment.get("arguments"):
        yield ["Command: ", Code(shlex.join(map(str, environment["arguments"]))[:COMMAND])]
    yield from (f"Note: {note}" for note in environment.get("notes", ()))
    for case, lines in environment.get("restarts", {}).items():
        yield f"Restarts of {case}: {'; '.join(lines)}"[:COMMAND]


def asked(environment: EnvironmentTree) -> list[str]:
    """What the command line changed: parameters and seeds, and the shard of a run that is part of one."""
    given = {f"--{key}": environment.get(key) for key in ("set", "seeds", "shard")}
    texts = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in given.items()}
    return [f"{key} {text}"[:COMMAND] for key, text in texts.items() if text]


def states(suites: Sequence[EnvironmentTree]) -> str:
    """``140 done, 2 failed``; empty if no status is known."""
    found = [one["status"] for suite in suites for one in suite["experiments"] if "status" in one]
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(["done", *found])) if found else ""


def _pairs(values: EnvironmentTree) -> str:
    def shown(key: str, value: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool) and key.endswith("_bytes"):
            return f"{key.removesuffix('_bytes')} {value / 2**30:.1f} GiB"
        return f"{key} {value}"

    return ", ".join(shown(key, value) for key, value in values.items() if value is not None)


def time(environment: EnvironmentTree) -> str:
    if not environment.get("ended"):
        return f"{environment['started']}, not ended"
    started, ended = (datetime.fromisoformat(environment[key]).astimezone(UTC) for key in ("started", "ended"))
    return f"{started:%Y-%m-%d %H:%M:%S} UTC, took {duration((ended - started).total_seconds())}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def failures(suites: Sequence[EnvironmentTree]) -> list[Words]:
    """Each experiment that failed or was skipped, with the reason."""
    return [
        [Badge(one["status"]), f" {suite['name']}/{one['name']}: {one.get('reason') or 'no reason given'}"]
        for suite in suites
        for one in suite["experiments"]
        if one.get("status", "done") != "done"
    ]
