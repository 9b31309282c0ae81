"""``constraints.txt``: a tested version of all that pyproject.toml and tox.ini ask for, and where it is used."""

import tomllib
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def lines(text: str) -> list[str]:
    """The lines of ``text`` that are neither empty nor comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    """The version of each package in the file."""
    found = {}
    for line in lines((ROOT / "constraints.txt").read_text(encoding="utf-8")):
        name, version = line.split("==")
        found[canonicalize_name(name)] = version
    return found


def test_every_requirement_has_a_version_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["test"], *extras["docs"], tox["tox"]["requires"]]
    asked += [line for section in tox.values() for line in lines(section.get("deps", ""))]
    versions = pins()
    wanted = {canonicalize_name(one.name): one.specifier for one in map(Requirement, asked)}
    wrong = [name for name, specifier in wanted.items() if name not in versions or versions[name] not in specifier]
    assert len(asked) > 20
    assert not wrong


def test_continuous_integration_runs_the_commands_of_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (install,) = (line for line in readme if line.startswith("python3 -m venv .venv "))
    (tests,) = (line for line in readme if line.startswith("python3 -m venv .venv-test "))
    assert install.split(" && ")[1] == ".venv/bin/pip install -c constraints.txt ."
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "pip install -c constraints.txt ." in (ROOT / ".github" / "workflows" / "gate.yml").read_text("utf-8")
