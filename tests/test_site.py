"""The documentation as a site: every page has its place, the reference says what the code has, and it builds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from bench.suite.find import packaged

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"


def load(name: str) -> ModuleType:
    """A module of the site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return load("reference")


def headings(page: str) -> list[str]:
    return re.findall(r"^##+ (.+)$", page, re.MULTILINE)


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(listed)


def test_the_reference_has_all_that_suites_run(reference: ModuleType) -> None:
    texts = (path.read_text(encoding="utf-8") for path in packaged().values())
    used = {run for text in texts for run in re.findall(r"\brun: ([a-z_]+\.[a-z_0-9]+)", text)}
    assert used
    assert used <= set(headings(reference.page("experiments")))


def test_the_reference_has_every_command_key_tag_and_field(reference: ModuleType) -> None:
    commands = reference.page("commands")
    assert "## bench run\n" in commands
    assert "--resume" in commands
    suite_keys = yaml.safe_load(packaged()["pipeline"].read_text(encoding="utf-8")).keys()
    assert all(f"| `{key}` |" in reference.page("suites") for key in suite_keys - {"defaults", "groups"})
    wire = (ROOT / "nodes" / "wire" / "messages.py").read_text(encoding="utf-8")
    tags = re.findall(r'tag="([\w-]+)"', wire)
    assert len(tags) > 30
    assert all(f"Tag `{tag}`" in reference.page("messages") for tag in tags)
    assert "| `precision` |" in reference.page("records")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "reference" / "messages" / "index.html").is_file()
