"""Cases beside each other: the records of a run without, in its order; and what a death or Ctrl-C leaves."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from bench.cli.main import main
from bench.console.view import LiveView
from bench.execution.journal import Journal
from bench.execution.plan import RunPlan, Schedule, make_plan, options_of
from bench.execution.progress import Progress
from bench.suite.schema import Case

Run = Callable[..., int]
RUN = ("run", "crew.yaml", "--jobs", "2", "--out", "out")
MODULE = """
import os, signal, sys
from pathlib import Path
import msgspec
from bench.suite.experiment import Context, Measurement

class Parameters(msgspec.Struct):
    n: int | str

SAY = []

def measure(parameters: Parameters, context: Context):
    print("this is no event")
    with open("pids.txt", "a") as file:
        file.write(f"{os.getpid()} ")
    context.say(f"n is {parameters.n}")
    SAY[:] = [context.say]
    for name in os.environ.get(f"DO_{parameters.n}", "").split():
        DOES[name]()
    yield Measurement("has_torch", "torch" in sys.modules, "1")

def multiply(parameters: Parameters, context: Context):
    import torch  # slow, so only here
    for _ in measure(parameters, context):
        torch.manual_seed(context.seed)
        weights = torch.randn(300, 300) * int(parameters.n)
        yield Measurement("norm", float((weights @ weights).tanh().sum()), "1")
        yield Measurement("threads", torch.get_num_threads(), "1")

def open_end(flags):
    os.close(os.open("pipe", flags))

def leave_process():
    ready, told = os.pipe()
    if os.fork() == 0:
        with open("pids.txt", "a") as file:
            file.write(f"{os.getpid()} ")
        os.close(told)
        signal.pause()
    os.close(told)
    os.read(ready, 1)  # its end: the other has written

DOES = {
    "wait": lambda: open_end(os.O_RDONLY),
    "wake": lambda: open_end(os.O_WRONLY),
    "fail": lambda: 1 / 0,
    "interrupt": lambda: os.kill(os.getppid(), signal.SIGINT),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "kill-runner": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "stay": signal.pause,
    "say-no-text": lambda: SAY[0](None),
    "read": lambda: sys.stdin.read(),
    "leave-process": leave_process,
    "change-suite": lambda: Path("crew.yaml").write_text(Path("crew.yaml").read_text().replace("d: 4", "d: 5")),
}
"""
SUITE = """
name: crew
experiments:
  - {name: alone, run: "crew:measure", mode: in-process, grid: {n: [9]}}
  - {name: beside, run: "crew:measure", mode: in-process, parallel: true, grid: {n: [1, 2, 3, 4]}}
"""


@pytest.fixture
def crew(user_folder: Callable[..., Path]) -> Path:
    """A folder with the suite, which is the current one."""
    folder = user_folder("crew", MODULE, SUITE)
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def run(crew: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``bench run`` of the suite, with what its cases do, as words of DOES; the exit code."""

    def start(*words: str, **does: str) -> int:
        with monkeypatch.context() as patch:
            for name, value in does.items():
                patch.setenv(name, value)
            return main([*RUN, *words])

    return start


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch in this process, so that what runs on one is seen to."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def recorded(out: str = "out") -> list[tuple[str, int, float]]:
    """(experiment, n, value) of each record."""
    records = map(json.loads, Path(out, "records.jsonl").read_text().splitlines())
    return [(record["experiment"], record["case"]["n"], record["value"]) for record in records]


def test_records_are_those_of_one_after_another_and_in_their_order(
    crew: Path, run: Run, capfd: pytest.CaptureFixture[str], two_threads: None
) -> None:
    (crew / "crew.yaml").write_text(SUITE.replace("crew:measure", "crew:multiply"))
    assert main([*RUN[:2], "--jobs", "1", "--out", "one"]) == 0
    assert set((crew / "pids.txt").read_text().split()) == {str(os.getpid())}
    (crew / "pids.txt").unlink()
    # 1 waits until 3 runs, so 2 has ended: either alone would stay for ever
    assert run(DO_1="wait", DO_3="wake") == 0
    order = [("beside", n) for n in (1, 2, 3, 4)] + [("alone", 9)]
    assert [(name, n) for name, n, _ in recorded()[::2]] == order
    assert [threads for _, _, threads in recorded()[1::2]] == [1, 1, 1, 1, 2]
    assert sorted(recorded()) == sorted(recorded("one"))
    assert len(set((crew / "pids.txt").read_text().split()) - {str(os.getpid())}) == 2
    shown = capfd.readouterr().out.splitlines()
    assert shown.count("this is no event") == 5 + 1  # of the first run, and of n=9
    assert "device cpu, shaping emulated, 2 at once where cases are parallel, into out" in shown


@pytest.mark.promise("Runner and workers", "a worker of `--jobs` dies", "its case has failed, the others are recorded")
def test_a_death_is_one_failure(crew: Path, run: Run) -> None:
    assert run(DO_2="kill", DO_3="fail") == 3
    assert [(n, has_torch) for _, n, has_torch in recorded()] == [(1, False), (4, False), (9, True)]
    errors = (crew / "out/errors.log").read_text()
    assert "crew/beside n=2 seed 0\nits process was killed by SIGKILL" in errors
    assert "ZeroDivisionError" in errors
    assert run("--resume") == 0
    assert sorted(n for _, n, _ in recorded()) == [1, 2, 3, 4, 9]


def test_ctrl_c_keeps_what_had_ended_and_leaves_no_process(crew: Path, run: Run) -> None:
    # 1 and 3 both run when 3 interrupts
    assert run(DO_1="wake stay", DO_3="wait interrupt stay") == 130
    assert [n for _, n, _ in recorded()] == [2]
    pids = {int(pid) for pid in (crew / "pids.txt").read_text().split()}
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))
    assert run("--resume") == 0
    assert [n for _, n, _ in recorded()] == [2, 1, 3, 4, 9]


@pytest.mark.promise("Runner and workers", "the runner of `--jobs` is killed", "its workers end")
def test_a_killed_runner_takes_them_along(crew: Path) -> None:
    environment = os.environ | {"DO_1": "stay", "DO_2": "kill-runner stay"}
    ended = subprocess.run([sys.executable, "-m", "bench.cli.main", *RUN], env=environment, check=False)
    assert ended.returncode == -9
    pids = [int(pid) for pid in (crew / "pids.txt").read_text().split()]
    workers = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, left = psutil.wait_procs(workers, timeout=30)
    assert left == []


def test_what_a_case_does_to_its_process_harms_no_other(crew: Path, run: Run) -> None:
    assert run(DO_1="say-no-text", DO_2="leave-process kill", DO_3="read leave-process") == 3
    assert [n for _, n, _ in recorded()] == [3, 4, 9]
    pids = {int(pid) for pid in (crew / "pids.txt").read_text().split()} - {os.getpid()}
    assert len(pids) >= 2 + 2
    _, left = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    assert left == []


def test_ctrl_c_while_a_case_is_recorded_keeps_those_that_had_ended(
    crew: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    add = Journal.add

    def interrupted(journal: Journal, case: Case, *came: Any) -> None:
        if case.case["n"] == 1:
            raise KeyboardInterrupt
        add(journal, case, *came)

    monkeypatch.setattr(Journal, "add", interrupted)
    # 2 has ended, and is recorded after 1
    assert run(DO_1="wait", DO_3="wake stay") == 130
    assert 2 in [n for _, n, _ in recorded()]


def test_a_suite_that_was_changed_meanwhile_is_not_what_is_run(crew: Path, run: Run) -> None:
    (crew / "crew.yaml").write_text(SUITE.replace("[1, 2, 3, 4]", "{a: 1, b: 2, c: 3, d: 4}"))
    # 3 and 4 are run by processes that read the suite anew
    assert run(DO_1="change-suite wake kill", DO_2="wait kill") == 3
    assert [n for _, n, _ in recorded()] == ["c", 9]
    assert "crew/beside n=d seed 0\nthe suite, its code or a file" in (crew / "out/errors.log").read_text()


def test_progress_tells_cases_apart_by_more_than_their_titles(crew: Path) -> None:
    (crew / "crew.yaml").write_text(SUITE.replace("[1, 2, 3, 4]", '[1, "1"]'))
    _, one, other = cases = make_plan(options_of({"suites": ["crew.yaml"]})).selected_cases
    assert one.title == other.title
    shown = io.StringIO()
    with LiveView(Console(file=shown, force_terminal=True, legacy_windows=False), 2) as view:
        progress = Progress(view, cases, Schedule(2, frozenset()))
        progress.start(one)
        progress.start(other)
        progress.end(one)
        progress.say(other.key, "still there")
        progress.say(one.key, "too late")  # from a thread that it has left
    assert "still there" in shown.getvalue()
    assert "too late" not in shown.getvalue()


def plan(crew: Path, estimate_s: str, **options: object) -> RunPlan:
    text = (crew / "crew.yaml").read_text()
    (crew / "crew.yaml").write_text(text.replace("parallel: true", f"parallel: true, estimate_s: {estimate_s}"))
    return make_plan(options_of({"suites": ["crew.yaml"], **options}))


@pytest.mark.parametrize(
    ("estimate_s", "options", "beside"),
    [
        ("null", {"jobs": 2}, 4),
        ("null", {"jobs": 1}, 0),
        ("0.1", {"jobs": 2}, 0),  # the processes would take longer to start
        ("100", {"jobs": 2}, 4),
        ("1.1", {"jobs": 4}, 0),
        ("100", {"jobs": 9}, 4),
        ("100", {"scale": "paper"}, 0),
        ("100", {"scale": "paper", "jobs": 3}, 4),
    ],
)
def test_cases_run_at_once_where_that_is_sooner(
    crew: Path, estimate_s: str, options: dict[str, object], beside: int
) -> None:
    made = plan(crew, estimate_s, **options)
    schedule = made.schedule(made.selected_cases)
    assert len(schedule.beside) == beside
    alone, *others = made.selected_cases
    assert schedule.share_s(alone, 6.0) == 6.0
    assert schedule.share_s(others[0], 6.0) == 6.0 / (min(made.jobs, beside) or 1)
    assert schedule.share_s(others[0], None) is None


def test_live_cases_are_never_parallel(crew: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (crew / "crew.yaml").write_text(SUITE.replace("mode: in-process, parallel", "mode: live, parallel"))
    assert main(["validate", "crew.yaml"]) == 2
    assert capsys.readouterr().err == (
        "crew.yaml:5: experiments[1].parallel: cases of mode live start nodes of their own, which need all cores\n"
    )
