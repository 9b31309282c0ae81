"""The other commands: exit codes, JSON alone on standard output, errors as lines; what a terminal shows."""

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from bench.cli.commands import COMMANDS
from bench.console.view import LiveView
from bench.execution import environment as conditions
from reports.record import Mode, ShapingBackend

Command = Callable[..., Any]
Told = Callable[..., tuple[int, str]]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def answer(command: Command, capsys: Captured) -> Callable[..., Any]:
    """``bench WORDS --json``, which must end with 0; what it says."""

    def ask(*words: str) -> Any:
        assert command(*words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return ask


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(command: Command, capsys: Captured, name: str) -> None:
    assert command(name, "--help") == 0
    text = capsys.readouterr().out
    assert COMMANDS[name].examples in text
    assert f"bench {name}" in COMMANDS[name].examples


@pytest.mark.parametrize(
    "words",
    [
        *("", "rnu", "run", "run toy.yaml --scale huge", "run toy.yaml --seed a", "check out"),
        *("profile resnet18 --input 3x32", "profile resnet18 --input 3x0x1"),
    ],
)
def test_wrong_arguments_are_2(command: Command, words: str) -> None:
    assert command(*words.split()) == 2


@pytest.mark.parametrize(
    "words",
    [
        *("run toy.yaml --seed -1", f"run toy.yaml --seed {1 << 64}"),
        *("node mec --port 99999", "profile resnet18 --input 3xax5"),
    ],
)
def test_a_number_out_of_range_is_refused(words: str, told: Told) -> None:
    code, error = told(*words.split())
    assert code == 2
    assert words.rpartition(" ")[2] in error


@pytest.mark.parametrize("name", ["", "  ", "me\nc"])
def test_a_node_has_a_name(name: str, told: Told) -> None:
    assert told("node", name) == (2, f"NAME: {name!r} is not a name of a node; give one such as mec1\n")


def test_list_says_what_is_packaged(answer: Callable[..., Any], command: Command, capsys: Captured) -> None:
    suites = {suite["name"]: suite for suite in answer("list")}
    assert suites["all"]["include"]
    assert Path(suites["all"]["path"]).is_file()
    assert command("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(suites) + 1
    (line,) = (line for line in lines if line.startswith("links "))
    assert line.split()[1] == str(len(suites["links"]["experiments"]))
    assert max(map(len, lines)) <= 120


def test_list_shows_the_experiments_of_some_suites(answer: Command, command: Command, told: Told) -> None:
    assert [suite["name"] for suite in answer("list", "edge_p*")] == ["edge_placement", "edge_privacy"]
    assert told("list", "hivemnd") == (2, "no suite of the package matches 'hivemnd' (did you mean 'hivemind'?)\n")
    assert command("list", "cellular") == 0


def test_validate_says_what_is_wrong(folder: Path, answer: Command, command: Command, capsys: Captured) -> None:
    right = {"valid": True, "errors": [], "notes": [], "experiments": ["toy/sweep", "toy/other"]}
    assert answer("validate", "toy.yaml") == right
    (folder / "bad.yaml").write_text("nme: a\n")
    assert command("validate", "bad.yaml", "toy.yaml", "--json") == 2
    printed = capsys.readouterr()
    lines = ["bad.yaml:1: nme: unknown key (did you mean 'name'?)", "bad.yaml:1: name: this key is required"]
    assert json.loads(printed.out) == {"valid": False, "errors": lines}
    assert printed.err.splitlines() == lines


def test_what_is_worth_knowing_and_no_error_is_told_by_validate_and_run(
    folder: Path, answer: Command, command: Command, told: Told, capsys: Captured
) -> None:
    head = "name: noted\nexperiments:\n- name: one\n  run: toy:pair\n  mode: in-process\n"
    (folder / "noted.yaml").write_text(head + "  parameters: {low: 0}\n  grid: {high: [3, 4]}\n")
    note = "noted.yaml:6: experiments[0].parameters.low: there is nothing lower"
    assert answer("validate", "noted.yaml")["notes"] == [note]
    assert command("validate", "noted.yaml") == 0
    assert capsys.readouterr().out.splitlines() == [note, "valid: 1 suites, 1 experiments"]
    assert command("run", "noted.yaml", "--scale", "smoke", "--out", "out") == 0
    assert capsys.readouterr().out.count(note) == 1
    assert (folder / "out/run.log").read_text().count(note) == 1
    assert json.loads((folder / "out/environment.json").read_text())["notes"] == [note]
    assert "there is nothing lower" in (folder / "out/report.md").read_text()


def test_report_is_made_again(folder: Path, told: Told) -> None:
    assert told("run", "toy.yaml", "--scale", "smoke", "--out", "out")[0] == 0
    before = (folder / "out/report.md").read_text()
    (folder / "out/report.md").unlink()
    assert told("report", "out")[0] == 0
    assert (folder / "out/report.md").read_text() == before
    code, error = told("report", "nosuch")
    assert (code, error.count("\n")) == (2, 1)


def test_check_tells_a_regression_from_unusable_input(
    folder: Path, answer: Command, command: Command, capsys: Captured
) -> None:
    with (folder / "toy.yaml").open("a") as file:
        file.write("gate: [{metric: n}]\n")
    assert command("run", "toy.yaml", "--scale", "smoke", "--out", "out") == 0
    capsys.readouterr()
    assert answer("check", "out", "--against", "base.jsonl", "--update") == {"updated": "base.jsonl", "records": 8}
    assert answer("check", "out", "--against", "base.jsonl")["passed"]
    (folder / "base.jsonl").write_text((folder / "base.jsonl").read_text().replace('"value":7.0', '"value":8.0'))
    assert command("check", "out", "--against", "base.jsonl", "--json", "--junit", "gate.xml") == 1
    assert json.loads(capsys.readouterr().out)["counts"]["regression"] == 1
    assert 'failures="1"' in (folder / "gate.xml").read_text()
    assert command("check", "out", "--against", "nosuch.jsonl") == 2
    assert capsys.readouterr() == ("", f"nosuch.jsonl: {os.strerror(errno.ENOENT)}\n")
    assert command("check", "out", "--against", "base.jsonl", "--junit", "no/such/folder") == 2


def test_split_answers_and_names_errors(folder: Path, answer: Command, told: Told) -> None:
    plan = "nodes: [a, b]\ncompute_s: {a: [9], b: [1]}\nboundary_bytes: [125, 0]\n"
    plan += "links: [{rate_bps: 1e+3, delay_s: 1}]\n"
    (folder / "plan.yaml").write_text(plan)
    assert answer("split", "plan.yaml")["splits"] == [0]
    (folder / "plan.yaml").write_text(plan.replace("delay_s", "delay"))
    code, error = told("split", "plan.yaml")
    assert code == 2
    assert error.startswith("plan.yaml:4: links[0].delay: unknown key (did you mean 'delay_s'?)\n")


def test_profile_names_an_unknown_model(told: Told) -> None:
    code, error = told("profile", "resnet19")
    assert code == 2
    assert error.startswith("MODEL: no model 'resnet19' (did you mean 'resnet18'?)")


def test_trace_convert_writes_csv_of_either_direction(
    folder: Path, command: Command, capsys: Captured, told: Told
) -> None:
    rows = ["Timestamp,DL_bitrate,UL_bitrate", "2019.12.14_10.16.30,800,90", "2019.12.14_10.16.32,0,50"]
    (folder / "drive.csv").write_text("\n".join(rows))
    for words, rate in (((), 800_000), (("--direction", "uplink"), 90_000)):
        assert command("trace", "convert", "drive.csv", *words) == 0
        assert capsys.readouterr().out.startswith(f"time_s,rate_bps\n0,{rate}\n2,")
    assert command("trace", "convert", "drive.csv", "--from", "ucc", "--to", "mine.csv") == 0
    assert capsys.readouterr().out == "mine.csv: 2 changes in 4 s\n"
    assert (folder / "mine.csv").read_text() == "time_s,rate_bps\n0,800000\n2,0\n"
    assert command("trace", "convert", "drive.csv", "--from", "excel") == 2
    capsys.readouterr()
    assert told("trace", "convert", "nosuch.csv") == (2, f"nosuch.csv: {os.strerror(errno.ENOENT)}\n")
    assert told("trace", "convert", "drive.csv", "--from", "pensieve")[1].startswith(
        "drive.csv:1: 3 values, expected a"
    )
    (folder / "lumos.csv").write_text("run_num,seq_num,Throughput\n1,1,5\n")
    error = "lumos.csv: lumos5g holds downlink rates alone; leave --direction out\n"
    assert told("trace", "convert", "lumos.csv", "--direction", "uplink") == (2, error)
    assert told("trace", "convert", "drive.csv", "--to", "no/such.csv") == (
        2,
        f"no/such.csv: {os.strerror(errno.ENOENT)}\n",
    )


def test_doctor_looks_for_data(folder: Path, answer: Callable[..., Any], command: Command) -> None:
    found = answer("doctor", "--data", str(folder))
    assert found["data_sets"]["digits"] == "found"
    assert found["data_sets"]["cifar10"].startswith("not found in ")
    assert set(found["kernel"]) == {"netem", "tbf"}
    assert found["machine"]["cores"] >= 1
    assert command("doctor") == 0
    assert command("doctor", "--data", "nosuch") == 2


def test_damaged_pictures_are_listed_by_doctor_and_refused_by_validate(
    folder: Path, command: Command, capsys: Captured, told: Told
) -> None:
    for number in range(10):
        path = folder / f"data/pets/{'cat' if number % 2 else 'dog'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    assert command("doctor", "--data", "data") == 0
    damaged = {"cat/1": b"", "dog/2": b"no picture", "dog/4": (folder / "data/pets/dog/4.png").read_bytes()[:-40]}
    for name, content in damaged.items():
        (folder / f"data/pets/{name}.png").write_bytes(content)
    capsys.readouterr()
    assert command("doctor", "--data", "data", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["data_sets"]["folder:pets"] == "3 of 10 pictures cannot be decoded"
    assert [line.partition(" (")[0] for line in found["damaged"]] == [
        f"folder:pets: data/pets/{name}.png" for name in damaged
    ]
    suite = "name: pets\ndataset: folder:pets\nexperiments:\n  - {name: a, run: pipeline.chain, parameters: {}}\n"
    (folder / "pets.yaml").write_text(suite)
    code, error = told("validate", "pets.yaml", "--data", "data")
    assert code == 2
    assert error.startswith("pets.yaml:2: dataset: folder:pets: 3 of 10 pictures cannot be decoded: ")
    assert all(f"data/pets/{name}.png (" in error for name in damaged)


@pytest.mark.parametrize(
    ("config", "netem"),
    [
        (["CONFIG_NET_SCH_NETEM=m"], True),
        (["CONFIG_NET_SCH_NETEM=y"], True),
        (["# CONFIG_NET_SCH_NETEM is not set"], False),
        ([], None),
    ],
)
def test_what_the_kernel_has_is_read_or_unknown(monkeypatch: Any, config: list[str], netem: bool | None) -> None:
    monkeypatch.setattr(conditions, "_kernel_config", lambda: config)
    monkeypatch.setattr(conditions.Path, "exists", lambda path: False)
    assert conditions.kernel_has("netem") is netem


@pytest.mark.parametrize(
    ("mode", "chosen", "recorded"),
    [
        ("live", "kernel", "kernel"),
        ("live", "none", "none"),
        ("in-process", "emulated", "none"),
        ("virtual", "kernel", "emulated"),
        ("virtual", "none", "none"),
    ],
)
def test_shaping_is_recorded_as_it_is(mode: Mode, chosen: ShapingBackend, recorded: ShapingBackend) -> None:
    assert conditions.shaping_of(mode, chosen) == recorded


def test_data_comes_from_the_environment_if_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "nosuch"))
    with pytest.raises(ValueError, match=r"BENCH_DATA: .*nosuch is not a folder"):
        conditions.data_folder(None)
    assert conditions.data_folder(tmp_path) == tmp_path
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    assert conditions.data_folder(None) == tmp_path


def test_a_narrow_terminal_shows_one_line_each() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=24, legacy_windows=False)
    title = "suite/experiment with=a long=case"
    with LiveView(console, 8) as view:
        for ended in ("a", "b"):
            view.start(ended, ended, None)
            view.end(ended)
        view.start("key", title, 90.0)
        view.say("key", "accuracy 0.83, 12 MB sent over all links")
        rendered = console.render_lines(view._render(), console.options)
    lines = ["".join(segment.text for segment in line).rstrip() for line in rendered]
    assert len(lines) == 4
    assert lines[0].startswith("[3/8] suite/")
    assert lines[1].startswith("    accuracy 0.83, 12")
    assert lines[2] == "about 2 min left"
    assert all(len(line) <= 24 for line in lines)
