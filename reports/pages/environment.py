"""Report lines from ``environment.json``, of which any key may be missing."""

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from reports.formatting import escape
from reports.record import Record

EnvironmentTree = dict[str, Any]  # content of environment.json
RUN = ("scale", "seed", "dataset", "shaping", "device")


def suites_of(records: Iterable[Record], environment: EnvironmentTree) -> list[EnvironmentTree]:
    """Suites and experiments of the environment, and those that only the records name."""
    listed = environment.get("suites", ())
    suites = {suite["name"]: {**suite, "experiments": list(suite.get("experiments", ()))} for suite in listed}
    for record in records:
        suite = suites.setdefault(record.suite, {"name": record.suite, "experiments": []})
        if record.experiment not in [experiment["name"] for experiment in suite["experiments"]]:
            suite["experiments"].append({"name": record.experiment})
    return list(suites.values())


def facts(environment: EnvironmentTree, suites: Sequence[EnvironmentTree]) -> Iterable[str]:
    for suite in suites:
        if "path" in suite or "sha256" in suite:
            digest = f", sha256 `{suite['sha256'][:12]}`" if suite.get("sha256") else ""
            yield f"- **Suite** {escape(suite['name'])}: `{suite.get('path', '?')}`{digest}"
    if run := _pairs({key: environment.get(key) for key in RUN}):
        yield f"- **Run**: {run}"
    if "started" in environment:
        yield f"- **Time**: {_time(environment)}"
    for key in ("machine", "versions"):
        if environment.get(key):
            yield f"- **{key.capitalize()}**: {_pairs(environment[key])}"
    if environment.get("arguments"):
        yield f"- **Command**: `{shlex.join(map(str, environment['arguments']))}`"
    yield from (f"- **Note**: {escape(note)}" for note in environment.get("notes", ()))
    states = [one["status"] for suite in suites for one in suite["experiments"] if "status" in one]
    if states:
        counts = (f"{states.count(state)} {state}" for state in dict.fromkeys(["done", *states]))
        yield f"- **Experiments**: {', '.join(counts)}"
    yield ""


def _pairs(values: EnvironmentTree) -> str:
    def shown(key: str, value: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool) and key.endswith("_bytes"):
            return f"{key.removesuffix('_bytes')} {value / 2**30:.1f} GiB"
        return f"{key} {value}"

    return escape(", ".join(shown(key, value) for key, value in values.items() if value is not None))


def _time(environment: EnvironmentTree) -> str:
    if not environment.get("ended"):
        return f"{environment['started']}, not ended"
    started, ended = (datetime.fromisoformat(environment[key]).astimezone(UTC) for key in ("started", "ended"))
    return f"{started:%Y-%m-%d %H:%M:%S} UTC, took {duration((ended - started).total_seconds())}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def failures(suites: Sequence[EnvironmentTree]) -> Iterable[str]:
    rows = [
        f"- **{one['status']}** {escape(suite['name'] + '/' + one['name'])}: "
        + escape(str(one.get("reason") or "no reason given"))
        for suite in suites
        for one in suite["experiments"]
        if one.get("status", "done") != "done"
    ]
    if rows:
        yield from ("## What failed or was skipped", "", *rows, "")
