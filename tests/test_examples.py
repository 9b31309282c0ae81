"""Every file of ``examples/``: it runs as its document says, and documents quote it to the letter."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cli.main import main

Command = Callable[..., str]
Run = Callable[[str], list[dict[str, Any]]]
ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_TURN = pytest.mark.xdist_group("in turn")  # as all tests that start nodes, see conftest
NAMED = re.compile(r"# (\w+\.(?:py|yaml))\n")  # the first line of a block that quotes a file


def blocks(document: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block of ``document``."""
    return BLOCK.findall(document.read_text(encoding="utf-8"))


def quoted() -> dict[str, list[str]]:
    """The texts that documents give of each file that they quote."""
    found: dict[str, list[str]] = {}
    for document in DOCUMENTS:
        for _, text in blocks(document):
            if name := NAMED.match(text):
                found.setdefault(name[1], []).append(text)
    return found


def test_documents_quote_the_examples_to_the_letter() -> None:
    texts = quoted()
    assert texts.keys() == {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    for name, copies in texts.items():
        for copy in copies:
            assert copy == (EXAMPLES / name).read_text(encoding="utf-8"), name


def test_all_code_in_readme_is_an_example() -> None:
    unnamed = [text for language, text in blocks(ROOT / "README.md") if language != "sh" and not NAMED.match(text)]
    assert not unnamed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the examples, for what they write; it is the current folder of a machine with one core.

    With more, processes of workers would start, each of which takes seconds.
    """
    monkeypatch.setattr("bench.execution.environment.cores", lambda: 1)
    copy = Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for path in copy.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return copy


@pytest.fixture
def python(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """What ``python FILE`` prints there; in this process, as each start takes seconds."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def command(file: str) -> str:
        capsys.readouterr()
        runpy.run_path(file, run_name="__main__")
        return capsys.readouterr().out

    return command


@pytest.fixture
def bench(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """What ``bench WORDS`` prints there."""

    def command(*words: str) -> str:
        capsys.readouterr()
        code = main(list(words))
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    return command


@pytest.fixture
def run(bench: Command) -> Run:
    """The records of a suite at smoke scale, in the folder ``out``."""

    def records(suite: str) -> list[dict[str, Any]]:
        bench("run", suite, "--scale", "smoke", "--allow-uncalibrated", "--out", "out")
        return [json.loads(line) for line in Path("out/records.jsonl").read_text().splitlines()]

    return records


def test_plan(bench: Command) -> None:
    plan = yaml.safe_load((EXAMPLES / "plan.yaml").read_text())
    computes, crossing, links = (
        [plan["compute_s"][name] for name in plan["nodes"]],
        plan["boundary_bytes"],
        plan["links"],
    )

    def cost_s(first: int, second: int) -> float:
        spent = sum(computes[0][:first]) + sum(computes[1][first:second]) + sum(computes[2][second:])
        used = [(link, done) for link, done in zip(links, (first, second), strict=True) if crossing[done]]
        return spent + sum(8 * crossing[done] / float(link["rate_bps"]) + link["delay_s"] for link, done in used)

    cheapest = min(combinations_with_replacement(range(4), 2), key=lambda splits: cost_s(*splits))
    found = json.loads(bench("split", "plan.yaml", "--json"))
    assert tuple(found["splits"]) == cheapest
    assert found["cost_s"] == pytest.approx(cost_s(*cheapest))
    assert cheapest == (1, 2)
    told = bench("split", "plan.yaml", "--figure", "why.png")
    assert "ue     layer 1\nmec    layer 2\ncloud  layer 3\n" in told
    assert told.endswith("\nfigure: why.png\n")
    assert Path("why.png").stat().st_size > 1000


@IN_TURN
def test_a_stage_of_ones_own_and_its_claim(run: Run) -> None:
    run("mine.yaml")
    (claim,) = json.loads(Path("out/claims.json").read_text())
    assert claim["verdict"] == "reproduced"
    assert 0.25 < claim["measured"] < 0.26  # a quarter of the tensor; the labels beside it stay


def test_a_stage_of_ones_own_beside_the_papers(run: Run) -> None:
    records = run("beside.yaml")
    uplink = [record for record in records if record["case"].get("kind") == "activation"]
    sent = {record["case"]["stage"]: record["value"] for record in uplink if record["metric"] == "payload_bytes"}
    assert len(sent) == 6
    assert sent["Half"] < sent["none"]
    assert {record["case"]["stage"] for record in records if record["metric"] == "test_accuracy"} == sent.keys()


def test_a_stage_with_a_trained_part(bench: Command) -> None:
    """Of each sample two maps of 8x8 in float32 go up in place of 32, and its label."""
    asked = 'stages.stage={name: "squeeze:Squeeze", options: {channels: 2}}'
    bench("run", "beside.yaml", "--scale", "smoke", "--set", asked, "--out", "out")
    records = [json.loads(line) for line in Path("out/records.jsonl").read_text().splitlines()]
    uplink = [record for record in records if record["case"].get("kind") == "activation"]
    (sent,) = [record["value"] for record in uplink if record["metric"] == "payload_bytes"]
    maps = 2 * 8 * 8 * 4
    assert (128 + 60) * maps < sent < 1.02 * (128 + 60) * maps


def test_a_model_of_ones_own_in_a_job(bench: Command, python: Command) -> None:
    lines = python("job.py").splitlines()
    assert [line.partition(",")[0] for line in lines[:3]] == ["ue: 3 layers", "mec: 2 layers", "cloud: 3 layers"]
    assert lines[3] == f"{2 * 256 // 32} training steps"
    profiled = json.loads(bench("profile", "own_model:small_resnet", "--input", "3x16x16", "--json"))
    assert len(profiled["layers"]) == 3 + 2 + 3


def test_notebook(python: Command) -> None:
    table = python("notebook.py")
    assert all(word in table for word in ("case.stage", "identity", "float16", "int8"))


def test_federation(run: Run) -> None:
    records = run("federation.yaml")
    stages = {record["case"]["stage"] for record in records if record["metric"] == "test_accuracy"}
    assert stages == {"identity", "int8"}


def test_a_scheme_of_ones_own(run: Run) -> None:
    """A clients' step of four in five; of its downlink payload only three clients' parts come from means."""
    records = run("scheme.yaml")
    steps = {record["case"]["method"]: record["value"] for record in records if record["metric"] == "client_steps"}
    assert steps["trimmed mean"] == pytest.approx(4 / 5 * steps["mean"])


@IN_TURN
def test_link_that_follows_a_trace(run: Run) -> None:
    records = run("trace.yaml")
    crossed = [
        record["value"]
        for record in records
        if record["metric"] == "payload_bytes" and record["case"]["kind"] == "activation"
    ]
    pooled = 32 * 8 * 8 * 4  # of one image: 32 maps of 8x8, float32
    assert (64 + 32) * pooled < sum(crossed) < 1.01 * (64 + 32) * pooled  # and its label


def test_network_of_ones_own(python: Command) -> None:
    median_ms, tail_ms = map(float, re.findall(r"([\d.]+) ms", python("network.py")))
    assert 5 < median_ms < tail_ms  # at least one delay of 5 ms unless all is computed at the UE, which takes longer
