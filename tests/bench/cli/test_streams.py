"""Standard streams of real processes: any encoding, closed ones, and JSON apart from what users' code prints."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cli.commands import COMMANDS
from bench.cli.main import main

MODULE = """
import atexit, os, subprocess
import msgspec
from bench.suite.experiment import Measurement
from bench.suite.parameter_types import ModelName

print("printed é")
os.write(1, b"written\\n")
subprocess.run(["echo", "of a child"])
atexit.register(print, "at the end")

class Parameters(msgspec.Struct):
    model: ModelName | None = None

def measure(parameters: Parameters, context):
    print("measuring µ")
    context.say("µ")
    yield Measurement("größe", 1, "µs")

def build(classes=10):
    import torch  # slow, so only here
    print("building")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, classes))
"""
SUITE = """
name: mine
title: "µ and –"
experiments:
  - {name: one, title: "Größe", run: "mine:measure", mode: virtual, parameters: {model: "mine:build"}}
  - {name: beside, run: "mine:measure", mode: virtual, parallel: true, seeds: 2}
gate:
  - {metric: größe}
"""
ASCII = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
CALLS = [
    "run mine.yaml --scale smoke --out out --jobs 2 -v",
    "validate mine.yaml --expand",
    "check out --against base.jsonl --update",
    "check out --against base.jsonl",
    "check out --against base.jsonl --json",
    "report out",
    *("list", "doctor", "run --help", "node --help"),
]
# Several commands in one process, as each start takes seconds.
ALL = """
import sys
from bench.cli.main import main
for words in sys.argv[1:]:
    print(words, main(words.split()), file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def mine(user_folder: Callable[..., Path]) -> Path:
    return user_folder("mine", MODULE, SUITE)


def process(*words: str, code: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """A process that runs ``code``, or else ``bench`` with these words."""
    own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": ""} | environment
    command = [sys.executable, *(("-c", code) if code else ("-m", "bench.cli.main")), *words]
    return subprocess.run(command, env=os.environ | own, capture_output=True, check=False, encoding="utf-8")


@pytest.mark.parametrize(("environment", "words"), [(ASCII[0], CALLS), (ASCII[1], CALLS[:2])])
def test_an_ascii_terminal_is_enough_for_every_command(environment: dict[str, str], words: list[str]) -> None:
    ended = process(*words, code=ALL, **environment)
    assert ended.returncode == 0, ended.stderr
    assert "UnicodeEncodeError" not in ended.stdout + ended.stderr
    codes = [line for line in ended.stderr.splitlines() if line.rpartition(" ")[0] in words]
    assert codes == [f"{word} 0" for word in words]
    assert r"measuring \xb5" in ended.stdout
    assert "größe" in Path("out/records.jsonl").read_text(encoding="utf-8")


def test_json_is_alone_on_standard_output_whatever_users_code_prints() -> None:
    for words in (["validate", "mine.yaml"], ["profile", "mine:build", "--input", "3x2x2"]):
        ended = process(*words, "--json")
        assert ended.returncode == 0, ended.stderr
        answer = json.loads(ended.stdout)
        assert "valid" in answer or answer["boundary_bytes"][0] == 48
        for printed in ("printed é", "written", "of a child", "at the end"):
            assert printed in ended.stderr
    (Path.cwd() / "mine.yaml").write_text("nme: a")
    ended = process("validate", "mine.yaml", "--json")
    assert ended.returncode == 2
    assert not json.loads(ended.stdout)["valid"]


def test_json_in_one_process_leaves_the_streams_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["validate", "mine.yaml", "--json"]) == 0
        print("after")
        out, err = capfd.readouterr()
        assert json.loads(out.removesuffix("after\n"))["valid"] is True
    assert "printed" not in out
    assert "printed" not in err  # the module is loaded once


@pytest.mark.parametrize(("closed", "jobs"), [("<&-", 1), (">&-", 1), ("2>&-", 1), ("<&- >&- 2>&-", 2)])
@pytest.mark.promise("Machine", "standard input, output or error is closed", "the run ends as usual")
def test_closed_streams_harm_no_run(closed: str, jobs: int) -> None:
    words = f"{sys.executable} -m bench.cli.main run mine.yaml --scale smoke --jobs {jobs} --out out {closed}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(["sh", "-c", words], env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert len(Path("out/records.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_a_regression_is_1_also_where_nobody_reads_and_a_full_disk_is_not() -> None:
    assert main(["run", "mine.yaml", "--scale", "smoke", "--jobs", "1", "--out", "out"]) == 0
    assert main(["check", "out", "--against", "base.jsonl", "--update"]) == 0
    path = Path("base.jsonl")
    path.write_text(path.read_text(encoding="utf-8").replace('"value":1.0', '"value":2.0'), encoding="utf-8")
    check = f"{sys.executable} -m bench.cli.main check out --against base.jsonl"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for tail, code in [("| true; exit $PIPESTATUS", 1), ("> /dev/full", 3)]:
        ended = subprocess.run(["bash", "-c", f"{check} {tail}"], env=environment, capture_output=True, check=False)
        assert ended.returncode == code, ended.stderr


@pytest.mark.parametrize(
    ("words", "code"), [(["validate", "mine.yaml"], 3), (["--help"], 3), (["validate", "no.yaml"], 2)]
)
@pytest.mark.parametrize("full", [["stdout"], ["stdout", "stderr"]])
@pytest.mark.promise("Machine", "the disk that standard output goes to is full", "one line, exit code 3")
def test_a_full_disk_is_one_line_and_no_regression(
    words: list[str], code: int, full: list[str], monkeypatch, capsys
) -> None:
    for name in full:
        monkeypatch.setattr(sys, name, open("/dev/full", "w", encoding="utf-8"))  # noqa: SIM115
    assert main(words) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == ("stderr" not in full)
    assert all(("standard output cannot be written" in line) == (code == 3) for line in lines)


def test_a_command_that_fails_is_no_regression(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def crash(*_: object) -> int:
        raise ZeroDivisionError("by nothing")

    def leave(*_: object) -> int:
        raise SystemExit(1)

    for run in (crash, leave):
        monkeypatch.setitem(COMMANDS, "list", COMMANDS["list"]._replace(run=run))
        assert main(["list"]) == 3
    assert "by nothing" in capsys.readouterr().err
    Path("leaves.py").write_text("raise SystemExit(1)")
    Path("mine.yaml").write_text("name: a\nexperiments: [{name: a, run: 'leaves:it'}]")
    assert main(["validate", "mine.yaml"]) == 2
    assert "leaves.py:1: the code raised SystemExit(1)" in capsys.readouterr().err


def test_names_of_files_that_are_no_text_are_names_of_files() -> None:
    name = os.fsdecode(b"o\xfft")
    Path("mine.yaml").rename(f"{name}.yaml")
    ended = process("run", f"{name}.yaml", "--scale", "smoke", "--jobs", "1", "--out", name)
    assert ended.returncode == 0, ended.stderr
    assert r"o\udcfft.yaml" in json.loads((Path(name) / "environment.json").read_text(encoding="utf-8"))["arguments"]
