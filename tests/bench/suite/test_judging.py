"""Claims judged again after a change, and claims run by name; through the command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., int]
Told = Callable[..., tuple[int, str]]
RUN = ("run", "toy.yaml", "--scale", "smoke", "--out", "out")
SUITE = Path("toy.yaml")

pytestmark = pytest.mark.usefixtures("folder")


def verdicts() -> dict[str, str]:
    return {claim["claim"]: claim["verdict"] for claim in json.loads(Path("out/claims.json").read_text())}


def change(before: str, after: str) -> None:
    text = SUITE.read_text()
    assert before in text
    SUITE.write_text(text.replace(before, after))


def test_a_report_judges_again_by_the_claims_of_now(command: Command, told: Told) -> None:
    assert command(*RUN) == 0
    assert told("report", "out") == (0, "")
    change("n is 2, paper: 2", "n is 3, paper: 3")
    assert told("report", "out") == (0, "toy/two: not-reproduced, was reproduced\n")
    assert verdicts() == {"two": "not-reproduced", "seven": "reproduced"}
    assert "not-reproduced" in Path("out/report.md").read_text()
    change("claim: seven", "claim: lucky")
    assert told("report", "out") == (0, "toy/lucky: reproduced, new\n")
    assert told("report", "out") == (0, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no file and no packaged suite 'toy'"),
        ("name: toy\nclaims: 3", "toy.yaml"),
        ("name: [", "toy.yaml:1"),
        ("name: other", "toy.yaml is the suite 'other' now"),
    ],
)
def test_a_suite_that_is_gone_or_broken_keeps_its_verdicts(
    command: Command, told: Told, text: str | None, reason: str
) -> None:
    assert command(*RUN) == 0
    SUITE.unlink() if text is None else SUITE.write_text(text)
    code, line = told("report", "out")
    assert code == 0
    assert line.startswith("toy: judged by the claims of the run itself: ")
    assert reason in line
    assert verdicts() == {"two": "reproduced", "seven": "reproduced"}


def test_judging_imports_no_runner(command: Command) -> None:
    assert command(*RUN) == 0
    change("n is 2, paper: 2", "n is 3, paper: 3")
    code = """
import sys
from bench.cli.main import main
assert main(["report", "out"]) == 0
runners = {"torch", "toy", "bench.execution.runner", "bench.execution.loader", "bench.experiments"}
print(sorted(runners & sys.modules.keys()))
"""
    path = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "two: not-reproduced, was reproduced" in ended.stderr


def test_a_claim_is_verified_by_the_cases_that_it_needs(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", "two", "--suite", "toy.yaml", "--scale", "smoke", "--out", "out", "--seed", "4") == 0
    assert Path("calls.txt").read_text().split() == ["2/4"]
    assert verdicts() == {"two": "reproduced", "seven": "not-run"}
    assert "two: reproduced (prediction). n is 2 2 without noise: within 0 of the paper's 2." in capsys.readouterr().out


def test_an_unknown_claim_or_one_of_several_suites_is_refused(told: Told) -> None:
    code, lines = told("verify", "tow", "--suite", "toy.yaml", "--out", "out")
    assert (code, lines) == (2, "no claim 'tow' in the suite (did you mean 'two'?)\n")
    assert not Path("out").exists()
    code, lines = told("verify", "equal-bandwidth", "cloud-over-300-mss", "dynsplit/nosuch")
    assert code == 2
    assert [line.split(";")[0].split(" (")[0] for line in lines.splitlines()] == [
        "claim 'equal-bandwidth' is in several suites",
        "no packaged suite has the claim 'cloud-over-300-mss'",
        "no packaged suite has the claim 'dynsplit/nosuch'",
    ]
    assert "dynsplit/equal-bandwidth, dynsplit_cifar10/equal-bandwidth" in lines
