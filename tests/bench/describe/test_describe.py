"""``bench describe``: parameters as their types say, and metrics as runs have measured them."""

import fnmatch
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from bench.cli.main import main
from bench.describe.answer import experiments
from bench.describe.metrics import metrics_of
from bench.describe.parameters import parameters_of, type_text
from bench.suite.experiment import Context, Measurement
from bench.suite.find import packaged, read_suite

RESULTS = Path(__file__).parents[1] / "execution" / "results.json"
SUFFIX = "load"


class Inner(msgspec.Struct):
    rate_bps: float | None = None  # of TCP's payload


class Parameters(msgspec.Struct):
    """What a test takes."""

    count: Annotated[int, msgspec.Meta(ge=1, le=9)]  # of things
    kind: Literal["a", "b"] = "a"
    first: Inner = msgspec.field(default_factory=Inner)
    second: list[Inner] | Inner | None = None


def _helper(name: str) -> Iterator[Measurement]:
    yield Measurement(f"{name}_{SUFFIX}", 1, "s")
    yield Measurement(SUFFIX, 1, "B")


def measure(parameters: Parameters, context: Context) -> Iterator[Measurement]:
    """Measure a little."""
    yield Measurement("low" if parameters.count else "high", 1, "J")
    yield Measurement(metric="named", value=2, unit="W")
    yield Measurement(context.scale, 3, "1")
    yield from _helper("x")


def test_parameters_have_types_ranges_defaults_units_and_comments() -> None:
    rows = {one.key: one for one in parameters_of(Parameters)}
    assert list(rows) == ["count", "kind", "first", "first.rate_bps", "second"]
    assert rows["count"] == ("count", "integer (>= 1, <= 9)", msgspec.UNSET, "", "of things")
    assert rows["kind"] == ("kind", "one of a, b", "a", "", "")
    assert rows["first.rate_bps"][1:] == ("number or null", None, "bit/s", "of TCP's payload")
    assert rows["second"].comment == "keys as of first"


def test_types_in_words() -> None:
    assert type_text(dict[str, tuple[int, str]]) == "mapping of [integer, text]"
    assert type_text(tuple[float, ...] | None) == "list of number or null"


def test_metrics_are_read_from_the_source_and_what_it_calls() -> None:
    assert metrics_of(measure) == {"low": "J", "high": "J", "named": "W", "*": "1", "*_load": "s", "load": "B"}


def test_every_metric_that_a_run_has_measured_is_described() -> None:
    runs = {
        f"{name}/{one['name']}": one["run"]
        for name, path in packaged().items()
        for one in read_suite(path).value.get("experiments") or ()
    }
    known = {run: metrics_of(function) for run, function in experiments().items()}
    measured = json.loads(RESULTS.read_text())["numbers"]
    seen = {(runs[name], *_metric(key)) for name, numbers in measured.items() for key in numbers}
    missing = {
        (run, metric)
        for run, metric, unit in seen
        if known[run].get(metric) not in (unit, "*")
        and not any("*" in name and fnmatch.fnmatchcase(metric, name) for name in known[run])
    }
    assert len(seen) > 50
    assert not missing


def _metric(key: str) -> tuple[str, str]:
    metric, _, rest = key.partition(" (")
    return metric, rest.partition(")")[0]


def test_all_that_suites_run_is_listed() -> None:
    used = {
        one["run"]
        for path in packaged().values()
        for one in read_suite(path).value.get("experiments") or ()
        if one["run"]
    }
    assert used <= experiments().keys()


@pytest.mark.parametrize(
    ("name", "key", "default"),
    [
        ("pipeline.chain", "nodes", 3),
        ("stage:topk", "random", 0.0),
        ("model:small_cnn", "width", 32),
        ("scheme:psl", "share", 1.0),
    ],
)
def test_a_name_is_described_as_json(name: str, key: str, default: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["key"]: one.get("default") for one in found["parameters"]}[key] == default


def test_lines_name_unit_default_and_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "pipeline.chain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "modes: in-process, live, virtual" in lines
    assert "  link.down.delay_s [s]: default 0.0" in lines
    assert ["test_accuracy", "fraction"] in [line.split() for line in lines]


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"pipeline.chain", "stage:dynsplit", "model:small_cnn", "scheme:epsl"} <= {
        name for names in found.values() for name in names
    }


def test_an_experiment_of_ones_own_is_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "toy:measure"]) == 0
    assert "n  1" in capsys.readouterr().out
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipeline.chian", "has no 'chian' (did you mean 'chain'?)"),
        ("pipeline", "no experiment (did you mean 'pipeline.chain'?)"),
        ("stage:tpk", "no stage 'tpk' (did you mean 'topk'?)"),
        ("toy:nothing_at_all", "toy has no 'nothing_at_all'"),
    ],
)
def test_an_unknown_name_is_an_error(told: Callable[..., tuple[int, str]], name: str, said: str) -> None:
    code, error = told("describe", name)
    assert (code, error.startswith(f"describe {name}: "), said in error) == (2, True, True)
