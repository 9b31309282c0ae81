"""The action for GitHub: the shell of its steps, run as GitHub runs it, with programs that note how they are called."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from bench.cli.main import parser

ACTION = Path(__file__).parents[1] / "action.yml"
DOCUMENT = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
STEPS = DOCUMENT["runs"]["steps"]
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]  # what `shell: bash` is
EXPRESSION = re.compile(r"\$\{\{ (\S+) \}\}")
# Notes its words; bench check also prints a summary, and ends as the test asks.
PROGRAM = """#!{python}
import json, os, pathlib, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(["{name}", *sys.argv[1:]]) + "\\n")
if sys.argv[1:2] == ["run"]:
    pathlib.Path(os.environ["OUT"]).mkdir(parents=True)
if sys.argv[1:2] == ["check"]:
    print("# Gate")
    sys.exit(int(os.environ["CHECK"]))
"""
GIVEN = {"suites": "mine.yaml pipeline", "baseline": "base line.jsonl", "arguments": "--seeds 3 --allow-uncalibrated"}


class Ran(NamedTuple):
    code: int
    printed: str
    calls: list[list[str]]
    output: str  # what the steps wrote to $GITHUB_OUTPUT


@pytest.fixture
def action(tmp_path: Path) -> Callable[..., Ran]:
    """Runs the steps in turn up to the first that fails; those with a condition only if ``event`` is named in it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bench", "python", "gh"):
        (programs / name).write_text(PROGRAM.format(python=sys.executable, name=name), encoding="utf-8")
        (programs / name).chmod(0o755)
    calls, output = tmp_path / "calls", tmp_path / "output"
    calls.touch()
    output.touch()

    def run(check: int = 0, event: str = "push") -> Ran:
        inputs = {name: one.get("default", "") for name, one in DOCUMENT["inputs"].items()} | GIVEN
        known = {f"inputs.{name}": value for name, value in inputs.items()}
        known |= {"github.token": "token", "github.event.pull_request.number": "7"}
        fixed = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), "CHECK": str(check)}
        of_github = {
            "GITHUB_ACTION_PATH": "/action",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_REPOSITORY": "me/mine",
        }
        code, printed = 0, ""
        for step in (one for one in STEPS if "run" in one):
            if (code and "always()" not in step.get("if", "")) or ("if" in step and event not in step["if"]):
                continue
            env = {
                name: EXPRESSION.sub(lambda found: known[found[1]], text) for name, text in step.get("env", {}).items()
            }
            done = subprocess.run(
                [*BASH, "-c", step["run"]],
                cwd=tmp_path,
                env=fixed | of_github | env,
                check=False,
                capture_output=True,
                text=True,
            )
            code, printed = code or done.returncode, printed + done.stdout + done.stderr
        said = [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
        return Ran(code, printed, said, output.read_text(encoding="utf-8"))

    return run


def test_its_commands_are_those_of_the_command_line(action: Callable[..., Ran]) -> None:
    ran = action()
    install, run, check = ran.calls
    assert install == ["python", "-m", "pip", "install", "-c", "/action/constraints.txt", "/action"]
    asked = parser(run[1:]).parse_args(run[1:])
    assert (asked.suites, asked.scale, asked.seeds) == (["mine.yaml", "pipeline"], "smoke", 3)
    compared = parser(check[1:]).parse_args(check[1:])
    assert (compared.folder, compared.against, compared.explain) == (asked.out, Path("base line.jsonl"), True)
    assert (ran.code, ran.output) == (0, "passed=true\n")


@pytest.mark.parametrize("check", [1, 2, 3])
def test_a_check_that_fails_fails_the_job_with_its_code_and_shows_why(action: Callable[..., Ran], check: int) -> None:
    ran = action(check)
    assert (ran.code, ran.output) == (check, "passed=false\n")
    assert "# Gate" in ran.printed


@pytest.mark.parametrize("check", [0, 1])
def test_a_pull_request_gets_the_summary_as_a_comment(action: Callable[..., Ran], check: int, tmp_path: Path) -> None:
    *_, comment = action(check, event="pull_request").calls
    assert shlex.join(comment[:6]) == "gh pr comment 7 --repo me/mine"
    assert (tmp_path / comment[-1]).read_text(encoding="utf-8") == "# Gate\n"


def test_its_outputs_and_inputs_are_used() -> None:
    text = ACTION.read_text(encoding="utf-8")
    assert all(f"inputs.{name}" in text for name in DOCUMENT["inputs"])
    steps: dict[str, Any] = {step["id"]: step for step in STEPS if "id" in step}
    assert 'echo "passed=' in steps["check"]["run"]
