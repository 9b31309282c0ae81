"""One folder, one run, one truth: started at once, killed, resumed elsewhere, resumed after its code has changed."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.execution.environment import SAME, TOLD
from bench.execution.journal import Journal
from bench.execution.lock import in_use, locked
from bench.suite.document import InputError
from bench.suite.identity import RESULTS_VERSION
from reports.record import read_records

Told = Callable[..., tuple[int, str]]
RUN = ("run", "mine.yaml", "--scale", "smoke", "--jobs", "1")
OUT = (*RUN, "--out", "out")
MODULE = """
import os
from pathlib import Path
import msgspec
from bench.suite.experiment import Measurement
import factor

class Parameters(msgspec.Struct):
    n: int = 0
    file: str = "number.txt"

def measure(parameters: Parameters, context):
    if parameters.n == 2 and Path("begun").exists():
        if os.fork() == 0:
            os.close(os.open("begun", os.O_WRONLY))
            os.open("end", os.O_RDONLY)  # outlives the run
            os._exit(0)
        os.open("end", os.O_RDONLY)
    yield Measurement("value", float(Path(parameters.file).read_text()) * factor.BY * parameters.n, "1")
"""
SUITE = """
name: mine
experiments:
  - {name: one, run: "mine:measure", mode: in-process, grid: {n: [1, 2, 3]}}
  - {name: other, run: "mine:measure", mode: in-process, parameters: {n: 7, file: other.txt}}
"""


@pytest.fixture(autouse=True)
def mine(user_folder: Callable[..., Path]) -> Path:
    folder = user_folder("mine", MODULE, SUITE)
    (folder / "factor.py").write_text("BY = 1\n")
    for name in ("number.txt", "other.txt"):
        (folder / name).write_text("5\n")
    return folder


def values() -> list[float]:
    return sorted(record.value for record in read_records(Path("out/records.jsonl")))


def start(*words: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "bench.cli.main", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def running(mine: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run in ``out`` of which the first case is recorded, and the second has forked and waits."""
    for name in ("begun", "end"):
        os.mkfifo(mine / name)
    process = start(*OUT)
    os.close(os.open("begun", os.O_RDONLY))
    yield process
    process.kill()
    with suppress(OSError):  # no process waits any more
        os.close(os.open("end", os.O_WRONLY | os.O_NONBLOCK))
    process.communicate()


def test_runs_that_start_at_once_get_a_folder_each() -> None:
    outputs = [process.communicate()[0] for process in [start(*RUN) for _ in range(3)]]
    assert all("report: " in output for output in outputs), outputs
    folders = list(Path("runs").iterdir())
    assert len(folders) == 3
    for folder in folders:
        assert len(list(read_records(folder / "records.jsonl"))) == 4


@pytest.mark.promise(
    "Runner and workers", "a second run or resume in the folder of a running one", "it is refused with exit code 2"
)
def test_a_running_run_has_its_folder_for_itself_until_it_is_killed(
    running: "subprocess.Popen[str]", told: Told
) -> None:
    records = Path("out/records.jsonl").read_bytes()
    said = f"out: a run is in progress here (process {running.pid} on "
    for words in (OUT, (*OUT, "--resume"), (*OUT, "--resume", "--rerun-changed")):
        code, error = told(*words)
        assert code == 2
        assert error.startswith(f"--out: {said}")
    code, error = told("check", "out", "--against", "nosuch.jsonl")
    assert code == 2
    assert error.startswith(said)
    code, error = told("report", "out")  # a long run's user wants to see how it goes
    assert code == 0
    assert error.startswith(said)
    assert "5" in Path("out/suites/mine.md").read_text()
    assert Path("out/records.jsonl").read_bytes() == records

    running.send_signal(signal.SIGKILL)
    running.wait()
    assert in_use(Path("out")) is None  # though the process that it forked lives on
    Path("begun").unlink()
    assert told(*OUT, "--resume") == (0, "")
    assert values() == [5, 10, 15, 35]
    assert told("report", "out") == (0, "")


def test_a_lock_ends_with_its_holder_and_is_one_also_within_a_process(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            assert f"(process {os.getpid()} on " in str(in_use(tmp_path))
            with pytest.raises(InputError, match="a run is in progress here"), locked(tmp_path):
                pass
        assert in_use(tmp_path) is None
    assert in_use(tmp_path / "nosuch") is None


def test_a_run_that_was_killed_at_its_very_beginning_can_be_started_again(told: Told) -> None:
    Path("out").mkdir()
    for name in (".lock", "records.jsonl", ".cases.jsonl", "run.log"):
        (Path("out") / name).touch()
    (Path("out") / ".environment.json.partial").write_text("{")
    assert told(*OUT) == (0, "")


def edit(*keys: str, value: Any) -> None:
    path = Path("out/environment.json")
    whole = environment = json.loads(path.read_text())
    for key in keys[:-1]:
        environment = environment[key]
    assert keys[-1] in environment
    environment[keys[-1]] = value
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("key", "code", "says"),
    [
        *((key, 0, "") for key in ("machine memory_bytes", "machine system", "host", "process", "arguments")),
        ("machine cpu", 0, "--resume: out: machine.cpu was former, is now "),
        ("versions python", 0, "--resume: out: versions.python was former, is now "),
        ("versions torch", 2, "--resume: out: torch was former, is now "),
        ("device", 2, "--resume: out: device was former, is now cpu; give another --out"),
        ("results", 2, None),
    ],
)
def test_a_run_goes_on_after_a_reboot_and_with_a_word_or_not_at_all_elsewhere(
    told: Told, key: str, code: int, says: str | None
) -> None:
    assert told(*OUT, "--only", "other")[0] == 0
    former = ["former"] if key == "arguments" else "former"
    edit(*key.split(), value=former)
    got, error = told(*OUT, "--resume")
    assert got == (0 if says is None else code)  # the cases' own identities decide, not what is noted
    assert error.startswith(says or "")
    assert values() == ([35] if got else [5, 10, 15, 35])
    if says == "":
        assert error == ""
        (earlier,) = json.loads(Path("out/environment.json").read_text())["earlier"]
        assert former in (earlier.get(key), earlier["machine"].get(key.rpartition(" ")[2]))


@pytest.mark.parametrize(
    ("file", "cases"),
    [
        ("mine.py", "4 recorded cases of mine/one, mine/other"),
        ("factor.py", "4 recorded cases of mine/one, mine/other"),
        ("number.txt", "3 recorded cases of mine/one"),
        ("other.txt", "1 recorded case of mine/other"),
    ],
)
def test_what_changed_is_refused_or_run_again_as_a_whole(told: Told, file: str, cases: str) -> None:
    assert told(*OUT) == (0, "")
    before = Path("out/records.jsonl").read_bytes()
    text = Path(file).read_text()
    Path(file).write_text(text.replace("BY = 1", "BY = 2").replace("5", "6").replace(" * parameters.n", " + 100"))
    ways = "give another --out, or --rerun-changed to drop these cases and run them again\n"
    refused = f"--resume: out: {file} has changed, which decides {cases}; {ways}"
    assert told(*OUT, "--resume") == (2, refused)
    assert told(*OUT, "--resume", "--only", "other") == (2, refused)  # whatever is to be run
    assert Path("out/records.jsonl").read_bytes() == before
    assert told(*OUT, "--rerun-changed") == (2, "--rerun-changed: give --resume too\n")

    assert told(*OUT, "--resume", "--rerun-changed")[0] == 0
    expected = {
        "mine.py": [105] * 4,
        "factor.py": [10, 20, 30, 70],
        "number.txt": [6, 12, 18, 35],
        "other.txt": [5, 10, 15, 42],
    }
    assert values() == expected[file]
    assert told(*OUT, "--resume") == (0, "")


def test_a_results_version_that_was_raised_is_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(*OUT) == (0, "")
    edit("results", value=0)
    path = Path("out/.cases.jsonl")
    path.write_text(path.read_text().replace('"sha256":"', '"sha256":"0'))
    code, error = told(*OUT, "--resume")
    assert code == 2
    versions = f"results version was 0, is now {RESULTS_VERSION}"
    assert error.startswith(f"--resume: out: {versions}, which decides 4 recorded cases of ")


def test_a_case_whose_files_change_while_the_run_is_under_way_is_not_run(told: Told) -> None:
    Path("mine.py").write_text(MODULE + "    Path('other.txt').write_text('6')\n")
    code, error = told(*OUT)
    assert code == 3
    assert error == "failed: mine/other seed 0: ValueError: other.txt was changed after the run began\n"
    assert values() == [5, 10, 15]


def test_a_case_whose_file_changes_while_it_runs_is_not_recorded(told: Told) -> None:
    Path("mine.py").write_text(MODULE + "    parameters.n == 3 and Path('number.txt').write_text('6')\n")
    code, error = told(*OUT)
    assert code == 3
    assert error == "failed: mine/one n=3 seed 0: ValueError: number.txt was changed while the case ran\n"
    assert values() == [5, 10, 35]


@pytest.mark.parametrize("torn_at", range(4))
@pytest.mark.promise(
    "Files",
    "the run is killed as `--rerun-changed` rewrites the journal",
    "records and cases fit each other at the next resume",
)
def test_cases_are_dropped_whole_however_early_the_run_is_killed(
    told: Told, monkeypatch: pytest.MonkeyPatch, torn_at: int
) -> None:
    assert told(*OUT) == (0, "")
    journal, steps = Journal(Path("out")), []
    dropped = next(key for key, done in journal.done.items() if done.case == {"n": 2})

    def torn(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            steps.append(function)
            if len(steps) > torn_at:
                raise KeyboardInterrupt
            return function(*arguments)

        return step

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        for name in ("rename", "replace", "rmdir"):
            patch.setattr(Path, name, torn(getattr(Path, name)))
        journal.drop({dropped})
    again = Journal(Path("out"))
    assert values() == ([5, 10, 15, 35] if torn_at == 0 else [5, 15, 35])
    assert (dropped in again.done) == (torn_at == 0)
    assert told(*OUT, "--resume") == (0, "")
    assert values() == [5, 10, 15, 35]


def test_the_document_lists_what_must_be_the_same_and_what_is_told() -> None:
    text = (Path(__file__).parents[3] / "docs/runs.md").read_text(encoding="utf-8")
    same, told = text.partition("What must be the same")[2].split("What is told")
    assert set(re.findall(r"`([a-z.]+)`", same.partition("environment.json`")[2])) == set(SAME)
    assert set(re.findall(r"`((?:machine|versions)\.[a-z]+)`", told)) == set(TOLD)
