"""Documents name what exists: paths, modules, names in them, experiments, claims, and each other's headings."""

import importlib
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.experiments import MODULES
from bench.suite.find import packaged, read_suite

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TRACES = ROOT / "netem" / "traces"
LINKED = [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "reports" / "results" / "README.md"]
PACKAGES = ("bench", "nodes", "netem", "reports", "suites")
FOLDERS = (*PACKAGES, "tests", "docs", "examples", ".ci", ".github")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```\n?", re.MULTILINE | re.DOTALL)
NAME = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?::\w+)?")
CLAIM = re.compile(r"[a-z0-9.]+(?:-[a-z0-9.]+)+")
LINK = re.compile(r"\]\(([^)\s]+)\)")
JUDGED = ("cellular", "deprune", "dynsplit", "edge_placement", "edge_privacy", "edge_sl", "hivemind", "links")


def identifier(path: Path) -> str:
    """Of a test of one document."""
    return path.relative_to(ROOT).as_posix()


def prose(document: Path) -> str:
    """``document`` without its fenced blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def words(document: Path) -> list[str]:
    """What ``document`` sets as code: whole spans, and the words of those of several."""
    spans = CODE.findall(prose(document))
    return [*spans, *(word for span in spans if " " in span for word in span.split())]


def is_path(word: str) -> bool:
    """Whether ``word`` names a file or folder of the repository."""
    first, slash, _ = word.partition("/")
    return (bool(slash) and first in FOLDERS) or (word.endswith((".py", ".toml", ".ini", ".cff")) and " " not in word)


def missing_name(word: str) -> bool:
    """Whether ``package.module:name`` or ``package.module.name`` cannot be found."""
    dotted, _, name = word.partition(":")
    parts = dotted.split(".")
    depth = next((n for n in range(len(parts), 0, -1) if _is_module(".".join(parts[:n]))), 0)
    if not depth or (name and depth < len(parts)):
        return True
    found = importlib.import_module(".".join(parts[:depth]))
    for step in [*parts[depth:], *([name] if name else [])]:
        if not hasattr(found, step):
            return True
        found = getattr(found, step)
    return False


@cache
def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def suites() -> str:
    """Every packaged suite, its tables of claims spelt out, as text."""
    return "\n".join(json.dumps(read_suite(path).value) for path in packaged().values())


def anchors(document: Path) -> set[str]:
    """What links to headings of ``document`` may name, by the usual rule: lower case, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_what_is_looked_for_is_found() -> None:
    assert is_path("nodes/spec/job.py")
    assert is_path("tests/nodes/stages/")
    assert not is_path("module:callable")
    assert not missing_name("nodes.spec.job:Job")
    assert not missing_name("netem.trace.Trace.schedule")
    assert missing_name("nodes.spec.job:Jobs")
    assert missing_name("nodes.specs:Job")
    assert missing_name("netem.trace.Trace.schedules")
    assert "traces" in anchors(ROOT / "docs" / "links.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=identifier)
def test_paths_names_and_experiments_exist(document: Path) -> None:
    found = words(document)
    asked = [word.split(".") for word in found if re.fullmatch(r"\w+\.\w+", word)]
    gone = [word for word in found if is_path(word) and not (ROOT / word).exists()]
    gone += [word for word in found if NAME.fullmatch(word) and missing_name(word)]
    gone += [
        f"{file}.{function}"
        for file, function in asked
        if file in MODULES and missing_name(f"bench.experiments.{MODULES[file]}:{function}")
    ]
    assert not gone


@pytest.mark.parametrize("name", JUDGED)
def test_claims_are_in_a_suite(name: str) -> None:
    """So are experiments and schemes: every name with hyphens that is neither a packaged trace nor in the glossary."""
    spans = set(CODE.findall(prose(ROOT / "docs" / f"{name}.md"))) - {path.stem for path in TRACES.glob("*.csv")}
    known = suites() + prose(ROOT / "docs" / "glossary.md")
    gone = [
        span
        for span in spans
        if CLAIM.fullmatch(span) and not re.search(rf"(?<![\w-]){re.escape(span)}(?![\w-])", known)
    ]
    assert not gone


@pytest.mark.parametrize("document", LINKED, ids=identifier)
def test_links_between_documents_resolve(document: Path) -> None:
    for target in LINK.findall(prose(document)):
        assert "://" not in target, target
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
