"""Names that an installed package registers: stages, models, schemes, experiments and suites."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.describe.answer import experiments
from bench.suite.document import InputError
from bench.suite.find import packaged
from nodes import imports
from nodes.federated.schemes import build_scheme
from nodes.model.factory import build_model
from nodes.spec import SchemeSpec, StageSpec
from nodes.stages import build_stage
from reports.record import read_records

LAB = """
import msgspec
from torch import nn
from bench.suite.experiment import Context, Measurement
from nodes.federated.schemes import Scheme
from nodes.stages import Stage

class Half(Stage):
    "Half of it."

class Slow(Scheme):
    "As parallel split learning."
    server_parts = "one"
    client_parts = "kept"

def labnet(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))

class Parameters(msgspec.Struct):
    size: int = 1

def sweep(parameters: Parameters, context: Context):
    yield Measurement("size", parameters.size, "1")
"""
POINTS = """
[splitmec.stages]
half = lab:Half
int8 = lab:Half
twice = lab:Half
[splitmec.models]
labnet = lab:labnet
[splitmec.schemes]
slow = lab:Slow
[splitmec.experiments]
lab.sweep = lab:sweep
[splitmec.suites]
lab = lab_suites
broken = no_such_module
"""
SUITE = "name: of-the-lab\nexperiments:\n  - {name: size, run: lab.sweep, mode: in-process, grid: {size: [2, 3]}}\n"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages ``lab`` and ``other`` on the search path, with entry points."""
    site = tmp_path / "site"
    (site / "lab_suites").mkdir(parents=True)
    (site / "lab.py").write_text(LAB)
    (site / "lab_suites" / "__init__.py").touch()
    (site / "lab_suites" / "lab.yaml").write_text(SUITE)
    for name, points in (("lab", POINTS), ("other", "[splitmec.stages]\ntwice = lab:labnet\nhalf = lab:Half\n")):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    imports._entry_points.cache_clear()
    yield
    imports._entry_points.cache_clear()
    for name in ("lab", "lab_suites"):
        sys.modules.pop(name, None)


def test_components_are_built_by_the_names_of_a_package() -> None:
    assert type(build_stage(StageSpec(name="half"), {})).__name__ == "Half"
    assert type(build_scheme(SchemeSpec(name="slow"))).__name__ == "Slow"
    assert build_model("labnet", 7, (3, 4, 4))[1].out_features == 7


def test_a_name_of_the_project_goes_first() -> None:
    assert type(build_stage(StageSpec(name="int8"), {})).__module__ == "nodes.stages.builtin"


def test_a_name_of_two_packages_is_an_error_where_it_is_used() -> None:
    with pytest.raises(ValueError, match="'twice' is registered for lab:Half and lab:labnet"):
        build_stage(StageSpec(name="twice"), {})


def test_an_unknown_name_lists_those_of_packages() -> None:
    with pytest.raises(ValueError, match=r"no stage 'hal' \(did you mean 'half'\?\); there are identity, .*half"):
        build_stage(StageSpec(name="hal"), {})


def test_suites_and_experiments_of_a_package_run(folder: Path, command: Callable[..., int]) -> None:
    assert packaged()["of-the-lab"].name == "lab.yaml"
    assert experiments()["lab.sweep"].__module__ == "lab"
    assert command("run", "of-the-lab", "--scale", "smoke", "--out", "out") == 0
    assert [one.value for one in read_records(folder / "out/records.jsonl")] == [2, 3]


def test_what_a_package_registers_is_described(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("describe", "lab.sweep", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {"size": "1"}
    assert command("describe", "stage:half") == 0
    assert "Half of it." in capsys.readouterr().out


def test_a_suite_may_name_a_stage_of_a_package(folder: Path, told: Callable[..., tuple[int, str]]) -> None:
    experiment = "{{name: a, run: pipeline.chain, mode: in-process, parameters: {}}}"
    suite = f"name: x\ndataset: digits\nexperiments: [{experiment}]\n"
    for stage, code in (("half", 0), ("hlf", 2), ("twice", 2)):
        (folder / "x.yaml").write_text(suite.format(f"{{model: small_cnn, side: 16, stage: {stage}}}"))
        assert told("validate", "x.yaml")[0] == code
    assert issubclass(InputError, ValueError)
