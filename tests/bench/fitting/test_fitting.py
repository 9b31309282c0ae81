"""``bench fit`` on an experiment whose numbers are two unknowns' sum and product, so that the fit is known."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cli.main import main
from bench.execution.loader import load
from bench.fitting.run import run_fit
from bench.fitting.solve import EVALUATIONS, Target
from bench.suite.document import InputError
from bench.suite.fitted import FitTarget
from reports.claims.claim import Bound, Claim, Order, Selector, Value

SHAPES = """
import msgspec
from bench.suite.experiment import Measurement

class Sides(msgspec.Struct, forbid_unknown_fields=True):
    a: float = 1.0
    b: float = 1.0
    factor: int = 1
    tasks: int = 1

calls = []

def measure(parameters: Sides, context):
    calls.append(parameters.tasks)
    a, b = parameters.a, parameters.b
    yield Measurement("sum", parameters.factor * (a + b), "1")
    yield Measurement("product", a * b, "1")
    yield Measurement("side", a, "1", {"of": "a"})
    yield Measurement("side", b, "1", {"of": "b"})
"""
SUITE = """
name: own
experiments:
  - name: shape
    run: shapes:measure
    mode: virtual
    parameters: {a: $fitted.a, b: $fitted.b, factor: $fitted.factor, tasks: 900}
claims:
  - {claim: sum, source: s, statement: s, paper: 14, value: {of: {experiment: shape, metric: sum}, relative: 0.01}}
  - {claim: product, source: s, statement: s, paper: 12,
     value: {of: {experiment: shape, metric: product}, relative: 0.01}}
  - {claim: longer, source: s, statement: s,
     order: {of: {experiment: shape, metric: side, case: {of: [a, b]}}, direction: increasing}}
  - {claim: long, source: s, statement: s, paper: 9,
     value: {of: {experiment: shape, metric: side, case: {of: b}}, relative: 0.01}}
fit:
  result: fitted.yaml
  small: {tasks: 2, of_another_experiment: 1}
  parameters:
    a: {why: w, start: 2, bounds: [0.1, 20]}
    b: {why: w, start: 6, bounds: [0.1, 10]}
    factor: {why: w, start: 1, choices: [1, 2]}
  used: [{claim: sum}, {claim: product}, {claim: longer}]
  held_out: [{claim: long}]
"""

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shapes.py").write_text(SHAPES)
    Path("own.yaml").write_text(SUITE)


def fitted() -> dict[str, Any]:
    return run_fit("own.yaml", None, lambda line: None)


def test_the_unknowns_are_found_and_the_suite_reads_them():
    assert load(["own.yaml"])[0].experiments[0].spec.parameters["a"] == 2  # the start, until there is a result
    result = fitted()
    found = result["values"]
    product, total = found["a"] * found["b"], found["factor"] * (found["a"] + found["b"])
    assert (product, total) == (pytest.approx(12, rel=2e-3), pytest.approx(14, rel=2e-3))
    assert found["factor"] == 2  # 14 and 12 are also of 13.08 and 0.92: but those come in falling order from here
    assert (found["a"], found["b"]) == (pytest.approx(3, rel=0.02), pytest.approx(4, rel=0.02))
    assert yaml.safe_load(Path("fitted.yaml").read_text()) == result
    (shape,) = load(["own.yaml"])[0].experiments
    assert shape.spec.parameters == {**found, "tasks": 900}
    assert [row["met"] for row in result["used"]] == [True] * 3
    assert [(one["converged"], one["evaluations"] < EVALUATIONS) for one in result["searches"]] == [(True, True)] * 2


def test_a_search_that_reaches_its_limit_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.fitting.solve.EVALUATIONS", 2)
    said: list[str] = []
    result = run_fit("own.yaml", None, said.append)
    assert [(one["converged"], one["evaluations"]) for one in result["searches"]] == [(False, 2)] * 2
    assert all(", not converged after 2 evaluations: " in line for line in said[:2])


def test_what_is_held_out_decides_nothing_and_what_cannot_hold_with_it_is_named():
    result = fitted()
    (row,) = result["held_out"]
    assert (row["claim"], row["paper"], row["met"]) == ("long", 9, False)
    assert row["measured"] == pytest.approx(4, rel=0.02)
    assert row["residual"] == pytest.approx((4 - 9) / 0.09, rel=0.02)
    (conflict,) = result["conflicts"]
    assert conflict["claim"] == "long"
    assert conflict["reached"]  # b may be 9 within its bounds
    assert conflict["gives_way"]
    a, b = conflict["values"]["a"], conflict["values"]["b"]
    assert b == pytest.approx(9, rel=0.02)
    assert abs(2 * (a + b) - 14) > 0.14 or abs(a * b - 12) > 0.12


def test_the_same_fit_twice_is_the_same_file():
    fitted()
    first = Path("fitted.yaml").read_text()
    fitted()
    assert Path("fitted.yaml").read_text() == first


def test_a_parameter_without_a_place_and_a_place_without_a_parameter_are_errors():
    Path("own.yaml").write_text(SUITE.replace("b: $fitted.b", "b: $fitted.c"))
    with pytest.raises(InputError) as caught:
        load(["own.yaml"])
    assert "own.yaml:7: experiments[0].parameters.b: no fitted parameter 'c'" in caught.value.lines[0]
    assert "own.yaml:21: fit.parameters.b: nothing in the suite is $fitted.b" in caught.value.lines


def test_a_result_of_other_parameters_is_an_error():
    Path("fitted.yaml").write_text("values: {a: 1}")
    with pytest.raises(InputError) as caught:
        load(["own.yaml"])
    assert caught.value.lines[0].startswith("own.yaml:17: fit.result: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"why: w, start: 2": "why: w, start: 0.01"},
        {"choices: [1, 2]": "choices: [2, 3]"},
        {"choices: [1, 2]": "choices: [1, 2], bounds: [1, 2]"},
        {"held_out: [{claim: long}]": "held_out: [{claim: short}]"},
        {"mode: virtual": "mode: in-process"},
        {"  used:": "  unused:"},
    ],
)
def test_a_wrong_fit_is_unusable(changes: dict[str, str], capsys: pytest.CaptureFixture[str]):
    text = SUITE
    for old, new in changes.items():
        text = text.replace(old, new)
    Path("own.yaml").write_text(text)
    assert main(["fit", "own.yaml"]) == 2
    assert capsys.readouterr().err.startswith("own.yaml:")


def test_the_command_prints_the_result(capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "own.yaml", "--out", "elsewhere.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == yaml.safe_load(Path("elsewhere.yaml").read_text())
    assert not Path("fitted.yaml").exists()
    assert main(["fit", "own.yaml"]) == 0
    assert "used product: " in capsys.readouterr().out


def target(claim: dict[str, Any], **spec: Any) -> Target:
    return Target(Claim(claim="c", source="s", statement="s", **claim), FitTarget(claim="c", **spec))


def test_residuals_are_in_tolerances():
    of = Selector(experiment="e", metric="m")
    number = target({"paper": 10, "value": Value(of=of, relative=0.1)})
    assert number.residual([12.0, 9.5]) == pytest.approx(2)
    assert target({"paper": 10, "value": Value(of=of, tolerance=4)}, relative=0.2).residual([12.0]) == pytest.approx(1)
    most = {"paper": 10, "bound": Bound(of=of, at_most=10)}
    assert target(most, relative=0.1).residual([3.0, 12.0]) == pytest.approx(2)
    assert target(most, relative=0.1).residual([3.0, 9.0]) == 0
    assert target(most, relative=0.1, reached=True).residual([3.0, 9.0]) == pytest.approx(-1)
    rounded = target({"paper": 10, "bound": Bound(of=of, at_most=10.5)}, relative=0.1, reached=True)
    assert rounded.residual([3.0, 10.0]) == 0  # the printed number is what is reached, not what rounds to it
    assert (rounded.worst([9.0, 3.0]), target({"paper": 10, "value": Value(of=of, relative=1)}).worst([9, 3])) == (9, 3)
    least = {"paper": 10, "bound": Bound(of=of, at_least=10)}
    assert target(least, relative=0.1, reached=True).residual([11.0, 30.0]) == pytest.approx(1)
    order = target({"order": Order(of=[of, of], direction="increasing")}, relative=0.1)
    assert (order.residual([0.3]), order.residual([-0.3])) == (0, pytest.approx(-3))
