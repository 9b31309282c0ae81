"""``--set`` and ``--seeds``: what they change, record and refuse; through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bench as api
from reports.record import Record, read_records

Command = Callable[..., int]
Told = Callable[..., tuple[int, str]]

SUITE = """
name: toy
experiments:
  - name: sweep
    run: toy:measure
    mode: in-process
    parameters: {inner: {a: [1, 2], b: [3]}}
    grid: {n: [1, 2, 3]}
    scales: {smoke: {grid: {n: [4, 5]}, parameters: {rate: 0.25}}}
  - name: sweep.two
    run: toy:measure
    mode: in-process
    seeds: 3
  - name: pair
    run: toy:pair
    mode: in-process
    parameters: {low: 1}
    grid: {high: {few: 2, many: 8}}
claims:
  - {claim: four, source: Table I, says: n is 4, paper: 4, needs_data: false, deterministic: true,
     value: {of: {experiment: sweep, metric: n, case: {n: 4, part: a}}, tolerance: 0}}
"""
RUN = ("run", "toy.yaml", "--scale", "smoke", "--out", "out")


@pytest.fixture(autouse=True)
def suite(folder: Path) -> None:
    (folder / "toy.yaml").write_text(SUITE)


def records() -> list[Record]:
    return list(read_records(Path("out/records.jsonl")))


def measured(experiment: str, metric: str = "n") -> list[tuple[dict[str, Any], float, int]]:
    """(case, value, seed) of what ``experiment`` measured, of the first half of each call."""
    return [
        ({key: value for key, value in one.case.items() if key != "part"}, one.value, one.seed)
        for one in records()
        if (one.experiment, one.metric) == (experiment, metric) and one.case.get("part") != "b"
    ]


def test_a_swept_parameter_keeps_its_place_in_the_case_with_one_value(command: Command) -> None:
    assert command(*RUN, "--set", "sweep.n=9", "--set", "toy/sweep.two.n=6") == 0
    assert measured("sweep") == [({"n": 9}, 9.0, 0)]
    assert measured("sweep.two") == [({}, 6.0, 0), ({}, 6.0, 1), ({}, 6.0, 2)]
    assert measured("pair", "low") == [({"high": "few"}, 1.0, 0), ({"high": "many"}, 1.0, 0)]


def test_what_is_set_is_a_condition_of_the_records_of_its_experiment_alone(command: Command) -> None:
    assert command(*RUN, "--set", "sweep.rate=1e-3", "--set", "sweep.inner.a.1=7") == 0
    assert {one.set for one in records() if one.experiment == "sweep"} == {"inner.a.1=7, rate=0.001"}
    assert {one.set for one in records() if one.experiment != "sweep"} == {""}
    assert "set inner.a.1=7, rate=0.001, seeds 0" in Path("out/suites/toy.md").read_text()
    verdicts = json.loads(Path("out/claims.json").read_text())
    assert [one["verdict"] for one in verdicts] == ["not-comparable"]
    assert "sweep with inner.a.1=7, rate=0.001" in verdicts[0]["why"]


def test_a_part_is_set_in_every_value_of_a_sweep(command: Command, folder: Path) -> None:
    old = "grid: {n: [1, 2, 3]}\n    scales: {smoke: {grid: {n: [4, 5]}, parameters: {rate: 0.25}}}"
    (folder / "toy.yaml").write_text(SUITE.replace(old, "grid: {inner: {x: {a: [1]}, y: {a: [2]}}}"))
    assert command(*RUN, "--only", "sweep", "--set", "sweep.inner.b=[5]", "--set", "sweep.n=3") == 0
    assert measured("sweep") == [({"inner": "x"}, 3.0, 0), ({"inner": "y"}, 3.0, 0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sweep", "expected experiment.key=value"),
        ("sweep=3", "expected experiment.key=value"),
        ("sweep..n=3", "expected experiment.key=value"),
        ("swep.n=3", "no experiment 'swep' (did you mean 'sweep'?)"),
        ("toi/pair.low=3", "no experiment 'toi/pair' (did you mean 'toy/pair'?)"),
        ("sweep.rat=3", "no parameter 'rat' of toy:measure (did you mean 'rate'?)"),
        ("sweep.n=a", "n: "),
        ("sweep.n={", "the value is not YAML"),
        ("sweep.n=", "the value is empty"),
        ("sweep.n.x=3", "4 has no part 'x'"),
        ("sweep.inner.a.2=3", "expected an index below 2, got '2'"),
        ("sweep.inner.a.0=x", "inner.a[0]: "),
        ("pair.low=5", "low is above high"),
    ],
)
def test_what_cannot_be_set_is_said_before_anything_runs(told: Told, text: str, said: str) -> None:
    code, error = told(*RUN, "--set", "sweep.two.n=0.5", "--set", text)
    assert code == 2
    lines = dict(line.split(": ", 1) for line in error.splitlines())
    assert lines.keys() == {"--set sweep.two.n=0.5", f"--set {text}"}
    assert said in lines[f"--set {text}"]
    assert not Path("out").exists()


def test_a_parameter_is_set_once(told: Told) -> None:
    code, error = told(*RUN, "--set", "sweep.n=1", "--set", "toy/sweep.n=2")
    assert (code, error) == (2, "--set toy/sweep.n=2: n is set twice\n")


def test_an_experiment_of_two_suites_needs_its_suite(told: Told, folder: Path) -> None:
    (folder / "more.yaml").write_text(SUITE.replace("name: toy", "name: more"))
    code, error = told("run", "more.yaml", *RUN[1:], "--set", "sweep.n=1")
    assert (code, "give one of more/sweep, toy/sweep" in error) == (2, True)


def test_notes_of_what_is_set_name_the_option(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*RUN, "--only", "pair", "--set", "pair.low=0") == 0
    assert "--set pair.low=0: there is nothing lower" in capsys.readouterr().out


def test_a_run_goes_on_only_with_the_same_settings(command: Command, told: Told) -> None:
    settings = ("--set", "sweep.two.rate=0.75")
    assert command(*RUN, *settings) == 0
    before = records()
    code, error = told(*RUN, "--resume", "--set", "sweep.two.rate=0.5")
    assert code == 2
    assert "--set was sweep.two.rate=0.75, is now sweep.two.rate=0.5, which decides 3 recorded cases of toy/sw" in error
    code, error = told(*RUN, "--resume", "--set", "sweep.two.rate=0.75", "--seeds", "1")
    assert "--seeds was not given, is now 1, which decides 2 recorded cases of toy/sweep.two" in error
    assert (command(*RUN, "--resume", *settings), records()) == (0, before)


def test_setting_what_the_suite_says_is_a_case_of_its_own(command: Command, told: Told) -> None:
    assert command(*RUN) == 0
    code, error = told(*RUN, "--resume", "--set", "sweep.rate=0.25")
    assert (code, "--set was not given, is now sweep.rate=0.25, which decides 2 recorded cases" in error) == (2, True)


def test_seeds_are_as_many_for_every_case(command: Command) -> None:
    assert command(*RUN, "--seed", "5", "--seeds", "2") == 0
    assert [seed for _, _, seed in measured("sweep.two")] == [5, 6]
    assert [(case["n"], seed) for case, _, seed in measured("sweep")] == [(4, 5), (4, 6), (5, 5), (5, 6)]
    assert {one.set for one in records()} == {""}
    assert command(*RUN, "--seed", "5", "--seeds", "3", "--resume") == 0
    assert [seed for _, _, seed in measured("sweep.two")] == [5, 6, 7]


def test_cases_that_run_at_once_are_changed_too(command: Command, folder: Path) -> None:
    """The worker makes the plan anew; its cases must be those that the runner asks for."""
    from bench.execution.plan import make_plan, options_of  # noqa: PLC0415

    options = options_of({"suites": ["toy.yaml"], "scale": "smoke", "set": ["sweep.n=9"], "seeds": 2})
    again = options_of(options.plain())
    first, second = make_plan(options), make_plan(again, checked=True)
    assert [case.sha256 for case in first.selected_cases] == [case.sha256 for case in second.selected_cases]
    assert [case.case for case in first.selected_cases][:2] == [{"n": 9}, {"n": 9}]


def test_the_function_takes_a_mapping() -> None:
    frame = api.run("toy.yaml", scale="smoke", out="out", only="sweep", set={"sweep.n": 9}, seeds=2)
    assert set(frame["set"]) == {"n=9"}
    assert sorted(set(frame["seed"])) == [0, 1]


IDLE = """
class Idle(msgspec.Struct):
    used: int = 1
    idle: int = 1
    def problems(self, setting):
        if self.idle != 1:
            yield Problem(("idle",), "nothing uses it", unused=self.used < 3)

def rest(parameters: Idle, context: Context):
    yield Measurement("used", parameters.used, "1")
"""


def test_a_parameter_that_no_case_uses_cannot_be_set(told: Told, folder: Path) -> None:
    (folder / "toy.py").write_text((folder / "toy.py").read_text() + IDLE)
    suite = "name: toy\nexperiments:\n  - {name: rest, run: toy:rest, mode: in-process, grid: {used: [1, 2]}}\n"
    (folder / "toy.yaml").write_text(suite)
    assert told(*RUN, "--set", "rest.idle=2") == (2, "--set rest.idle=2: nothing uses it\n")
    assert told(*RUN, "--set", "rest.idle=1")[0] == 0
