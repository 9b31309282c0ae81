"""``bench list``: the suites of the package. They are read, not checked: no experiment is imported."""

from typing import Any

from bench.suite.find import packaged, read_suite
from bench.suite.schema import SuiteFile
from bench.suite.strict_yaml import convert


def suites() -> list[dict[str, Any]]:
    found = []
    for name, path in packaged().items():
        document = read_suite(path)
        suite = convert(document, SuiteFile)
        document.check()
        assert suite is not None
        about = {"name": name, "title": suite.title, "description": suite.description, "path": str(path)}
        experiments = [{"name": spec.name, "title": spec.title, "mode": spec.mode} for spec in suite.experiments]
        counts = {"include": suite.include, "experiments": experiments, "claims": len(suite.claims)}
        found.append(about | counts)
    return found


def as_lines(found: list[dict[str, Any]]) -> list[str]:
    lines = []
    for suite in found:
        includes = f", includes {', '.join(suite['include'])}" if suite["include"] else ""
        lines.append(f"{suite['name']}: {suite['title']}{includes}")
        lines += [f"  {spec['name']:<20} {spec['mode']:<11} {spec['title']}" for spec in suite["experiments"]]
    return lines
