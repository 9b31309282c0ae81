"""``bench merge``: shards joined are the whole run; what does not belong together is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import main
from reports.record import read_records

Command = Callable[..., int]
Told = Callable[..., tuple[int, str]]
SUITE = """
name: toy
experiments:
  - {name: sweep, run: toy:measure, mode: in-process, grid: {n: [1, 20, 3], rate: [0.5, 0.25]}, estimate_s: 1}
  - {name: other, run: toy:measure, mode: virtual, parameters: {n: 7}, seeds: 2}
claims:
  - {claim: seven, source: Table I, says: n is 7, paper: 7, needs_data: false, deterministic: true,
     value: {of: {experiment: other, metric: n, case: {part: a}}, tolerance: 0}}
"""


@pytest.fixture(autouse=True)
def suite(folder: Path) -> Path:
    (folder / "toy.yaml").write_text(SUITE)
    return folder


def run(command: Command, out: str, *words: str) -> int:
    return command("run", "toy.yaml", "--scale", "smoke", "--out", out, *words)


def measured(out: str) -> list[tuple[Any, ...]]:
    found = read_records(Path(out, "records.jsonl"))
    return [(one.experiment, tuple(one.case.items()), one.seed, one.metric, one.value) for one in found]


def environment(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "environment.json").read_text())
    return found


def change(out: str, name: str, edit: Callable[[str], str]) -> None:
    path = Path(out, name)
    path.write_text(edit(path.read_text()))


def test_shards_joined_are_the_whole_run(command: Command) -> None:
    assert [run(command, f"part{number}", "--shard", f"{number}/3") for number in (1, 2, 3)] == [0, 0, 0]
    assert run(command, "whole") == 0
    parts = [measured(f"part{number}") for number in (1, 2, 3)]
    assert all(parts)
    assert {one["status"] for one in environment("part1")["suites"][0]["experiments"]} == {"done"}
    assert main(["merge", "part3", "part1", "part2", "--out", "joined"]) == 0
    assert sorted(measured("joined")) == sorted(measured("whole")) == sorted(row for part in parts for row in part)
    cases = [dict(case) for name, case, *_ in measured("joined") if name == "sweep" and dict(case)["part"] == "a"]
    assert [(case["n"], case["rate"]) for case in cases] == [(n, rate) for n in (1, 3, 20) for rate in (0.25, 0.5)]
    claims = [json.loads(Path(out, "claims.json").read_text())[0]["verdict"] for out in ("joined", "whole")]
    assert claims == ["reproduced", "reproduced"]
    assert [part["shard"] for part in environment("joined")["merged"]] == ["3/3", "1/3", "2/3"]


def test_what_is_missing_is_told_and_can_be_run(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    run(command, "part1", "--shard", "1/2")
    capsys.readouterr()
    assert main(["merge", "part1", "--out", "joined"]) == 0
    assert "of 2 shards 2 are missing" in capsys.readouterr().err
    Path("calls.txt").unlink()
    assert run(command, "joined", "--resume") == 0
    assert len(Path("calls.txt").read_text().split()) == 8 - len(
        {row[:3] for row in measured("part1") if row[1][-1][1] == "a"}
    )
    run(command, "whole")
    assert sorted(measured("joined")) == sorted(measured("whole"))


def test_the_same_case_twice_is_taken_once(command: Command) -> None:
    run(command, "one", "--only", "other")
    run(command, "two")
    assert main(["merge", "one", "two", "--out", "joined", "--json"]) == 0
    assert sorted(measured("joined")) == sorted(measured("two"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda: change("two", "records.jsonl", lambda text: text.replace('"value":7.0', '"value":8.0')),
            "other values",
        ),
        (lambda: change("two", "environment.json", lambda text: text.replace('"smoke"', '"paper"')), "scale is paper"),
        (
            lambda: change("two", "environment.json", lambda text: text.replace('"seeds": null', '"seeds": 2')),
            "seeds is 2",
        ),
        (
            lambda: change("two", "environment.json", lambda text: text.replace('"sha256": "', '"sha256": "x')),
            "suite toy",
        ),
        (
            lambda: change("two", "environment.json", lambda text: text.replace('"name": "toy"', '"name": "toi"')),
            "suites toi",
        ),
        (lambda: change("two", ".cases.jsonl", lambda text: f"x{text}"), ".cases.jsonl:1: "),
        (lambda: Path("two/records.jsonl").write_text(""), "some are missing"),
        (lambda: Path("two/environment.json").unlink(), "has no environment.json"),
    ],
)
def test_what_does_not_belong_together_is_refused(command: Command, told: Told, spoil: Any, said: str) -> None:
    run(command, "one", "--only", "other")
    run(command, "two", "--only", "other")
    spoil()
    code, error = told("merge", "one", "two", "--out", "joined")
    assert (code, said in error) == (2, True), error
    assert not Path("joined").exists()


def test_a_folder_with_something_in_it_is_left_alone(command: Command, told: Told) -> None:
    run(command, "one", "--only", "other")
    assert told("merge", "one", "--out", "one") == (2, "--out: one is not empty\n")
    assert told("merge", "none", "--out", "new")[0] == 2
