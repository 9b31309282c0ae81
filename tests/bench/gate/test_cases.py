"""The gate by the command line: hashes of cases, what changed, and what it leaves for a workflow."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench.cli.main import parser

Told = Callable[..., tuple[int, str]]
ROOT = Path(__file__).parents[3]
SUITE = """
name: toy
experiments:
  - {name: sweep, run: toy:measure, mode: in-process, title: First, grid: {n: [1, 2]}}
  - {name: other, run: toy:measure, mode: virtual, parameters: {n: 7}}
gate:
  - {metric: n, direction: higher-is-worse}
"""


@pytest.fixture
def check(folder: Path, told: Told, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Make a baseline, change text in the folder, run again and check; the code, output and errors."""
    (folder / "toy.yaml").write_text(SUITE)

    def run(*words: str, **changes: tuple[str, str]) -> tuple[int, str, str]:
        for out in ("before", "after"):
            assert told("run", "toy.yaml", "--scale", "smoke", "--out", out)[0] == 0
            if out == "before":
                assert told("check", out, "--against", "baseline.jsonl", "--update")[0] == 0
                for name, (old, new) in changes.items():
                    path = folder / f"toy.{name}"
                    assert old in path.read_text()
                    path.write_text(path.read_text().replace(old, new))
        code, error = told("check", "after", "--against", "baseline.jsonl", *words)
        return code, Path("shown").read_text() if Path("shown").exists() else "", error

    return run


def test_titles_and_other_experiments_change_nothing(check: Callable[..., tuple[int, str, str]]) -> None:
    more = "gate:", "  - {name: third, run: toy:measure, mode: in-process}\ngate:"
    assert check(yaml=more)[0] == 0


def test_a_title_changes_nothing(check: Callable[..., tuple[int, str, str]]) -> None:
    assert check(yaml=("title: First", "title: Another"))[0] == 0


def test_other_parameters_of_a_case_need_a_new_baseline(check: Callable[..., tuple[int, str, str]]) -> None:
    code, _, error = check(yaml=("parameters: {n: 7}", "parameters: {n: 7, rate: 0.25}"))
    assert code == 2
    assert "toy/other{}: other parameters than in baseline.jsonl; make it again by --update" in error


def test_a_case_that_is_gone_is_missing(check: Callable[..., tuple[int, str, str]]) -> None:
    assert check(yaml=("n: [1, 2]", "n: [1]"))[0] == 1


def test_a_regression_is_explained_and_left_for_the_workflow(
    check: Callable[..., tuple[int, str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    (folder / "summary.md").write_text("before\n")
    worse = "parameters.n * 2", "parameters.n * 3"
    code, _, error = check("--explain", "--benchmark", "gate.json", py=worse)
    assert (code, error) == (1, "")
    text = (folder / "summary.md").read_text()
    assert text.startswith("before\n# Gate: failed\n")
    assert text.index("# SplitMEC report: ") > text.index("Conditions that differ")
    assert "own code, files or data that decide the case (toy.py)" in text
    assert "- toy: toy.py: " in text.partition("Conditions that differ")[2]
    assert len(json.loads((folder / "gate.json").read_text())) == 6
    assert json.loads((folder / "gate.bigger.json").read_text()) == []


def test_the_commands_of_the_action_are_ours() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert action["runs"]["using"] == "composite"
    scripts = [step["run"] for step in action["runs"]["steps"] if "run" in step]
    assert all(step.get("shell") == "bash" for step in action["runs"]["steps"] if "run" in step)
    lines = [line.strip() for script in scripts for line in script.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line.partition(" >")[0])[1:] for line in lines if line.startswith("bench ")]
    assert [words[0] for words in commands] == ["run", "check"]
    values = {"$SCALE": "smoke", "$ARGUMENTS": action["inputs"]["arguments"]["default"]}
    for words in commands:
        filled = [values.get(word, word) for word in words]
        assert parser(filled).parse_args(filled).command == words[0]
    used = {one for step in action["runs"]["steps"] for one in yaml.safe_dump(step).split("inputs.")[1:]}
    assert {one.split()[0].rstrip("'}") for one in used} == action["inputs"].keys()
