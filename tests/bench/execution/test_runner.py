"""``bench run``: what it leaves, and what a failure, Ctrl-C or a kill leaves; through the command line."""

import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bench as api
from bench.console.view import duration, plan_lines
from bench.suite.document import InputError
from reports.record import Record, read_records

pytestmark = pytest.mark.usefixtures("folder")

Captured = pytest.CaptureFixture[str]
Command = Callable[..., int]
Told = Callable[..., tuple[int, str]]
RUN = ("run", "toy.yaml", "--scale", "smoke", "--out", "out")
ALL = {(n, part) for n in (1, 2, 3, 7) for part in "ab"}


def records() -> list[Record]:
    return list(read_records(Path("out/records.jsonl")))


def recorded() -> Counter[tuple[Any, Any]]:
    """How often each (n, part) is recorded."""
    values = ((record.value if record.case["part"] == "a" else record.value / 2, record) for record in records())
    return Counter((value, record.case["part"]) for value, record in values)


def calls() -> list[str]:
    """The n/seed of each call of an experiment since the last look."""
    path = Path("calls.txt")
    made = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return made


def environment() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/environment.json").read_text())
    return found


def statuses() -> dict[str, tuple[str, str | None]]:
    (suite,) = environment()["suites"]
    return {spec["name"]: (spec["status"], spec["reason"]) for spec in suite["experiments"]}


def verdicts() -> dict[str, str]:
    return {claim["claim"]: claim["verdict"] for claim in json.loads(Path("out/claims.json").read_text())}


def test_a_run_leaves_records_claims_a_report_and_its_conditions(folder: Path, command: Command) -> None:
    assert command(*RUN, "--seed", "4") == 0
    assert {path.name for path in (folder / "out").iterdir()} == {
        *(
            "records.jsonl",
            "claims.json",
            "report.md",
            "report.html",
            "suites",
            "figures",
            "environment.json",
            ".cases.jsonl",
            ".lock",
            "run.log",
        )
    }
    assert recorded() == Counter(ALL)
    assert calls() == ["1/4", "2/4", "3/4", "7/4"]
    first, last = records()[0], records()[-1]
    assert (first.case, first.mode, first.shaping) == ({"n": 1, "part": "a"}, "in-process", "none")
    assert (last.case, last.mode, last.shaping) == ({"part": "b"}, "virtual", "emulated")
    conditions = {(one.suite, one.seed, one.scale, one.dataset, one.device, one.run) for one in records()}
    assert conditions == {("toy", 4, "smoke", "none", "cpu", environment()["run"])}
    assert statuses() == {"sweep": ("done", None), "other": ("done", None)}
    assert verdicts() == {"two": "reproduced", "seven": "reproduced"}
    known = environment()
    conditions = {"scale": "smoke", "seed": 4, "shaping": "emulated", "device": "cpu", "dataset": "none"}
    assert {key: known[key] for key in conditions} == conditions
    assert known["arguments"] == ["bench", *RUN, "--seed", "4"]
    assert known["started"] <= known["ended"]
    assert len(known["suites"][0]["sha256"]) == 64
    assert "## sweep" in (folder / "out/suites/toy.md").read_text()


def test_the_precision_of_a_case_is_a_condition_of_its_records(folder: Path, command: Command) -> None:
    (folder / "half.py").write_text(
        "import msgspec\nfrom bench.suite.experiment import Measurement\n"
        "class Parameters(msgspec.Struct):\n    precision: str = 'float32'\n"
        "def measure(parameters: Parameters, context):\n    yield Measurement('n', 1, '1')\n"
    )
    (folder / "half.yaml").write_text(
        "{name: half, experiments: [{name: both, run: 'half:measure', mode: in-process, "
        "grid: {precision: [float32, bfloat16]}}]}"
    )
    assert command("run", "half.yaml", "--scale", "smoke", "--out", "out") == 0
    assert [record.precision for record in records()] == ["float32", "bfloat16"]
    usual, other = map(json.loads, Path("out/records.jsonl").read_text().splitlines())
    assert set(other) - set(usual) == {"precision"}


def test_the_plan_comes_first_and_plain_lines_follow(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*RUN) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = ["  toy/sweep  3 cases, time unknown", "  toy/other  1 case, time unknown", "4 cases, time unknown in all"]
    assert lines[2:6] == [*plan, "[1/4] toy/sweep n=1 seed 0"]
    assert any(line.startswith("toy: ") and "prediction" in line for line in lines)
    assert lines[-1] == "report: out/report.md"


def test_a_folder_with_something_in_it_is_left_alone(folder: Path, command: Command, told: Told) -> None:
    (folder / "out").mkdir()
    assert command(*RUN, "--resume") == 0
    assert told(*RUN) == (2, "--out: out is not empty; give --resume to continue the run there\n")
    (folder / "mine").mkdir()
    (folder / "mine/thesis.txt").touch()
    code, error = told("run", "toy.yaml", "--out", "mine", "--resume")
    assert code == 2
    assert "mine holds no run of `bench run`" in error
    assert command("run", "toy.yaml", "--out", "toy.py") == 2
    assert command("run", "toy.yaml", "--resume") == 2
    (folder / "out/records.jsonl").unlink()
    (folder / "out/records.jsonl").mkdir()
    assert told(*RUN, "--resume") == (2, f"--out: out: {os.strerror(errno.EISDIR)}\n")


def test_a_folder_that_may_not_be_looked_into_is_told_of(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)  # a stranger's folder, which root may look into
    assert told(*RUN) == (2, "--out: out: Permission denied\n")


def test_a_failure_does_not_stop_the_others_and_can_be_made_good(folder: Path, command: Command, told: Told) -> None:
    (folder / "fail").touch()
    reason = "toy/sweep n=2 seed 0: RuntimeError: a cable is missing"
    assert told(*RUN) == (3, f"failed: {reason}\n")
    assert recorded() == Counter({cell for cell in ALL if cell[0] != 2})
    assert statuses() == {"sweep": ("failed", reason), "other": ("done", None)}
    assert "in fail\n    raise RuntimeError" in (folder / "out/errors.log").read_text()
    assert verdicts() == {"two": "not-run", "seven": "reproduced"}
    assert reason in (folder / "out/report.md").read_text()

    (folder / "fail").unlink()
    calls()
    assert command(*RUN, "--only", "other", "--resume") == 0
    assert statuses()["sweep"] == ("failed", reason)
    assert command(*RUN, "--resume") == 0
    assert calls() == ["2/0"]
    assert recorded() == Counter(ALL)
    assert statuses()["sweep"] == ("done", None)
    assert verdicts()["two"] == "reproduced"
    assert not (folder / "out/.scratch").exists()


def test_the_last_lines_say_how_many_failed(folder: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "fail").touch()
    assert command(*RUN) == 3
    assert "1 of 2 experiments failed; tracebacks are in out/errors.log" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("text", "yielded 'n is 1', not a Measurement"),
        ("case", "its case changes n, which the suite's grid sets"),
        ("not finite", "its case has part nan"),
        ("cancelled", "CancelledError: no longer wanted"),
        ("nothing", "the experiment measured nothing"),
    ],
)
def test_what_is_no_measurement_is_a_failure(command: Command, monkeypatch: Any, wrong: str, reason: str) -> None:
    monkeypatch.setenv("WRONG", wrong)
    run = "toy:nothing" if wrong == "nothing" else "toy:wrong"
    Path("toy.yaml").write_text(f"name: toy\nexperiments: [{{name: a, run: '{run}', grid: {{n: [1]}}}}]")
    assert command(*RUN) == 3
    assert reason in str(statuses()["a"][1])
    assert records() == []


def test_what_is_finite_is_kept_of_a_case_with_numbers_that_are_not(folder: Path, command: Command) -> None:
    (folder / "toy.yaml").write_text("name: toy\nexperiments: [{name: a, run: 'toy:diverge', grid: {n: [1, 2, 3]}}]")
    assert command(*RUN) == 3
    missing = "loss part=a is nan, loss part=b is nan, loss part=c is nan and 1 more"
    failed = ("failed", f"toy/a n=2 seed 0: {missing}; finite values were recorded")
    assert statuses() == {"a": failed}
    kept = [(record.case["n"], record.metric) for record in records()]
    assert Counter(kept) == {(1, "bytes"): 1, (2, "bytes"): 1, (3, "bytes"): 1, (1, "loss"): 4, (3, "loss"): 4}
    assert not (folder / "out/.scratch").exists()
    assert command(*RUN, "--resume") == 3  # it would be the same again
    assert statuses() == {"a": failed}
    assert len(records()) == len(kept)


@pytest.mark.promise("Runner and workers", "Ctrl-C", "records are kept, the report is written, exit code 130")
def test_ctrl_c_keeps_the_records_and_writes_the_report(folder: Path, command: Command) -> None:
    (folder / "interrupt").touch()
    assert command(*RUN) == 130
    assert recorded() == Counter({(1, "a"), (1, "b")})
    assert statuses() == {
        "sweep": ("skipped", "interrupted: 2 of 3 cases were not run"),
        "other": ("skipped", "interrupted: 1 of 1 cases were not run"),
    }
    assert verdicts() == {"two": "not-run", "seven": "not-run"}
    assert "interrupted" in (folder / "out/report.md").read_text()
    (folder / "interrupt").unlink()
    calls()
    assert command(*RUN, "--resume") == 0
    assert calls() == ["2/0", "3/0", "7/0"]
    assert recorded() == Counter(ALL)


@pytest.mark.parametrize("on_ctrl_c", [signal.default_int_handler, signal.SIG_IGN])  # ignored in the background
def test_sigterm_is_as_ctrl_c_but_for_the_exit_code(
    folder: Path, command: Command, request: Any, on_ctrl_c: Any
) -> None:
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, on_ctrl_c)))
    (folder / "terminate").touch()
    before = signal.getsignal(signal.SIGTERM)
    assert command(*RUN) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert recorded() == Counter({(1, "a"), (1, "b")})
    assert statuses()["sweep"] == ("skipped", "interrupted: 2 of 3 cases were not run")
    assert "interrupted" in (folder / "out/report.md").read_text()


@pytest.mark.promise(
    "Runner and workers", "the runner is killed in a case", "`--resume` runs that case and the later ones alone"
)
def test_a_killed_run_goes_on_after_its_last_whole_case(folder: Path, command: Command) -> None:
    (folder / "kill").touch()
    environment_ = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": ""}
    words = [sys.executable, "-m", "bench.cli.main", *RUN]
    done = subprocess.run(words, cwd=folder, env=environment_, capture_output=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert recorded() == Counter({(1, "a"), (1, "b")})
    assert statuses()["sweep"] == ("skipped", "did not end: 2 of 3 cases were not run")
    for name in ("records.jsonl", ".cases.jsonl"):  # what a kill in the middle of writing leaves
        path = folder / "out" / name
        path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0] * (name[0] == "r"))
        path.write_bytes(path.read_bytes() + b'{"schema":1,"ru')
    (folder / "kill").unlink()
    calls()
    assert command(*RUN, "--resume") == 0
    assert calls() == ["2/0", "3/0", "7/0"]
    assert recorded() == Counter(ALL)


def test_a_marker_whose_line_did_not_end_does_not_count(folder: Path, command: Command) -> None:
    assert command(*RUN) == 0
    calls()
    path = folder / "out/.cases.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert command(*RUN, "--resume") == 0
    assert calls() == ["7/0"]
    assert command(*RUN, "--resume") == 0
    assert calls() == []
    assert recorded() == Counter(ALL)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / ".cases.jsonl").unlink(), "holds records but no .cases.jsonl"),
        (lambda out: spoil_line(out / ".cases.jsonl"), r".cases.jsonl:1: "),
        (lambda out: spoil_line(out / "records.jsonl"), r"records.jsonl:1: "),
    ],
)
@pytest.mark.promise(
    "Files", "records or journal of a run were changed by hand", "`--resume` refuses with file and line, exit code 2"
)
def test_a_run_whose_files_were_changed_is_left_alone(folder: Path, told: Told, spoil: Any, message: str) -> None:
    assert told(*RUN)[0] == 0
    spoil(folder / "out")
    assert_left_alone(told, message, "--resume")


def assert_left_alone(told: Told, message: str, *words: str) -> None:
    before = Path("out/records.jsonl").read_bytes()
    code, error = told(*RUN, *words)
    assert code == 2
    assert message in error
    assert Path("out/records.jsonl").read_bytes() == before


def spoil_line(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


def test_a_run_keeps_its_name_and_start_when_it_goes_on(folder: Path, command: Command) -> None:
    assert command(*RUN, "--only", "other") == 0
    path = folder / "out/environment.json"
    first = {"run": "first", "started": "2020-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(environment() | first))
    assert command(*RUN, "--resume") == 0
    assert {key: environment()[key] for key in first} == first
    assert [record.run for record in records() if record.experiment == "sweep"] == ["first"] * 6


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (("--seed", "1"), "seed was 0, is now 1"),
        (("--scale", "laptop"), "scale was smoke, is now laptop"),
        (("--shaping", "none"), "shaping was emulated, is now none"),
        ("n: 7}=n: 8}", "the suites no longer define 1 recorded case of toy/other"),
        ("n: [1, 2, 3]=n: [1, 2]", "the suites no longer define 1 recorded case of toy/sweep"),
        ("name: toy\n=name: toy\ndataset: digits\n", "dataset was none, is now digits"),
    ],
)
def test_a_run_goes_on_only_under_the_same_conditions(folder: Path, told: Told, case: Any, said: str) -> None:
    assert told(*RUN)[0] == 0
    words = case if isinstance(case, tuple) else ()
    if not words:
        change(*case.split("="))
    assert_left_alone(told, said, "--resume", *words)


def change(old: str, new: str) -> None:
    """Put ``new`` in the place of ``old`` in the suite."""
    path = Path("toy.yaml")
    path.write_text(path.read_text().replace(old, new))


def test_seeds_cases_and_claims_may_be_added_to_a_run(command: Command) -> None:
    assert command(*RUN) == 0
    calls()
    change("n: [1, 2, 3]", "n: [1, 2, 3, 4]")
    change("parameters: {n: 7}", "parameters: {n: 7}\n    seeds: 2")
    change("claim: two", "claim: zwei")
    assert command(*RUN, "--resume") == 0
    assert calls() == ["4/0", "7/1"]
    assert set(verdicts()) == {"zwei", "seven"}


def test_only_runs_what_matches(command: Command, told: Told) -> None:
    assert command(*RUN, "--only", "toy/o*") == 0
    assert calls() == ["7/0"]
    assert statuses() == {"sweep": ("skipped", "not selected by --only toy/o*"), "other": ("done", None)}
    assert verdicts() == {"two": "not-run", "seven": "reproduced"}
    wrong = "--only: no experiment matches othr (did you mean 'toy/other'?)\n--only: no experiment matches x*\n"
    assert told("run", "toy.yaml", "--only", "othr", "--only", "sweep", "--only", "x*") == (2, wrong)


def test_only_may_be_given_again(command: Command) -> None:
    change("claims:", "  - {name: third, mode: in-process, run: 'toy:measure'}\nclaims:")
    assert command(*RUN, "--only", "third", "--only", "o*") == 0
    assert calls() == ["7/0", "1/0"]
    assert statuses()["sweep"] == ("skipped", "not selected by --only third o*")


def test_what_a_scale_skips_is_said(command: Command) -> None:
    change("parameters: {n: 7}", "scales: {smoke: {skip: needs a day}}")
    assert command(*RUN) == 0
    assert statuses()["other"] == ("skipped", "not at scale smoke: needs a day")


def test_unusable_input_is_found_before_anything_runs(folder: Path, command: Command, capsys: Captured) -> None:
    change("n: 7", "n: 1e-3")
    assert command(*RUN) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"toy\.yaml:11: experiments\[1\]\.parameters\.n: .+\n", printed.err)
    assert not (folder / "out").exists()
    assert calls() == []
    assert command("run", "toy.yaml", "--data", "nosuch") == 2
    assert capsys.readouterr().err.startswith("--data: nosuch is not a folder")


def test_without_out_runs_get_folders_of_their_own_called_as_their_suites(folder: Path, command: Command) -> None:
    (folder / "toy.yaml").rename(folder / "suite.yaml")
    for _ in range(2):
        assert command("run", "suite.yaml", "--only", "other") == 0
    folders = list((folder / "runs").iterdir())
    assert len(folders) == 2
    assert all(path.name.startswith("toy-2") for path in folders)


def test_the_function_gives_the_records_as_a_frame() -> None:
    frame = api.run("toy.yaml", scale="smoke", out="out", seed=3)
    assert list(frame["value"]) == [record.value for record in records()]
    assert set(frame["seed"]) == {3}
    assert frame.attrs["out"] == "out"
    for words, wrong in (("is not empty", {"out": "out"}), ("jobs", {"jobs": -2}), ("scale", {"scale": "smal"})):
        with pytest.raises(InputError, match=words):
            api.run("toy.yaml", **{"scale": "smoke", **wrong})
    Path("fail").touch()
    with pytest.raises(RuntimeError, match=r"a cable is missing.*The records of the other cases are in more"):
        api.run("toy.yaml", out="more")


def test_the_plan_says_what_is_unknown() -> None:
    assert plan_lines([("a", [30.0, 50.0], ""), ("bcd", [None, 200.0], ""), ("e", [], "recorded before")]) == [
        "  a    2 cases, about 80 s",
        "  bcd  2 cases, about 3 min and 1 of unknown time",
        "  e    recorded before",
        "4 cases, about 5 min and 1 of unknown time in all",
    ]
    assert [duration(seconds) for seconds in (0.04, 89.6, 100, 5401)] == ["0.0 s", "90 s", "2 min", "1.5 h"]
