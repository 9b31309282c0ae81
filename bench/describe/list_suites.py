"""``bench list``: the suites of the package. They are read, not checked: no experiment is imported."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from bench.suite.document import InputError
from bench.suite.find import packaged, read_suite
from bench.suite.schema import SuiteFile
from bench.suite.strict_yaml import convert
from nodes.imports import did_you_mean


def suites(globs: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The suites whose names match one of ``globs``, or all. Raises InputError for a glob that matches none."""
    files, found = packaged(), []
    if unmatched := [glob for glob in globs if not any(fnmatchcase(name, glob) for name in files)]:
        raise InputError([f"no suite of the package matches {glob!r}{did_you_mean(glob, files)}" for glob in unmatched])
    for name, path in files.items():
        if globs and not any(fnmatchcase(name, glob) for glob in globs):
            continue
        document = read_suite(path)
        suite = convert(document, SuiteFile)
        document.check()
        assert suite is not None
        about = {"name": name, "title": suite.title, "description": suite.description, "path": str(path)}
        experiments = [{"name": spec.name, "title": spec.title, "mode": spec.mode} for spec in suite.experiments]
        counts = {"include": suite.include, "experiments": experiments, "claims": len(suite.claims)}
        found.append(about | counts)
    return found


def overview(found: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each suite."""
    lines = [f"{'suite':<20} {'experiments':>11} {'claims':>6}"]
    for suite in found:
        own = len(suite["experiments"]) or f"{len(suite['include'])} suites"
        lines.append(f"{suite['name']:<20} {own:>11} {suite['claims'] or '':>6}  {suite['title']}")
    return [*lines, "bench list SUITE lists a suite's experiments, bench run SUITE runs them."]


def as_lines(found: Iterable[dict[str, Any]]) -> list[str]:
    """The experiments of each suite."""
    lines = []
    for suite in found:
        includes = f", includes {', '.join(suite['include'])}" if suite["include"] else ""
        lines.append(f"{suite['name']}: {suite['title']}{includes}")
        lines += [f"  {spec['name']:<20} {spec['mode']:<11} {spec['title']}" for spec in suite["experiments"]]
    return lines
