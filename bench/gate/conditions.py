"""Conditions of a run beside those in its records, as flat facts, and in which of them two runs differ."""

from collections.abc import Iterator, Mapping
from typing import Any

OF_RUN = ("run", "commit", "results", "seed")  # keys of environment.json
GROUPS = ("versions", "machine")
UNTOLD = ("run", "machine.memory_bytes")  # differ always, or decide nothing
DIGITS = 12  # of a digest


def facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """What ``environment.json`` says of versions, machine, suites and their files, by name."""
    return {name: str(value) for name, value in _facts(environment) if value is not None}


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """(before, after) of every fact that both runs tell, and in which they differ."""
    common = [name for name in before if name in after and name not in UNTOLD]
    return {name: (before[name], after[name]) for name in common if before[name] != after[name]}


def _facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in OF_RUN:
        yield name, environment.get(name)
    for group in GROUPS:
        yield from ((f"{group}.{key}", value) for key, value in (environment.get(group) or {}).items())
    for suite in environment.get("suites", ()):
        yield f"suite {suite['name']}", suite.get("sha256", "")[:DIGITS] or None
        for file, digest in (suite.get("sources") or {}).items():
            yield f"{suite['name']}: {file}", digest[:DIGITS]
