"""Every parameter of every experiment changes the work, or is refused: none is accepted and dropped."""

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from trials import TRIALS, WEIGHTS, With
from work import work_of

from bench import experiments
from bench.execution.loader import resolve_run
from bench.experiments import MODULES
from bench.suite.document import Key
from bench.suite.experiment import Checked, Context, Measurement, Setting
from bench.suite.parameter_types import decoder
from nodes.model.factory import build_model

EXEMPT = {  # (experiment, parameter, mode): the reason
    (
        "split_search.sizes",
        "side",
        "virtual",
    ): "layers are traced at this size; of few networks their number depends on it",
    ("split_search.sizes", "input", "virtual"): "as side; it is there for models that take no pictures",
    ("dynsplit.size", "input", "virtual"): "counts of parameters are those of any input; models of tokens need it",
    ("edge_roaming.roaming", "backhaul", "in-process"): "a price of moving and of staying alike; few decisions change",
}
EXPERIMENTS = sorted(TRIALS)
FIELDS = [
    (run, field.name, mode)
    for run in EXPERIMENTS
    for field in msgspec.structs.fields(resolve_run(run)[1])
    for mode in TRIALS[run].modes
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    weights = build_model("small_cnn", 10, (3, 16, 16)).state_dict()
    torch.save(weights, folder / WEIGHTS)
    return folder


def parameters_of(run: str, folder: Path, values: dict[str, Any]) -> Any:
    placed = {name: str(folder / WEIGHTS) if value == WEIGHTS else value for name, value in values.items()}
    return msgspec.convert(placed, resolve_run(run)[1], dec_hook=decoder(None))


def refused(run: str, values: dict[str, Any], mode: str, folder: Path, unused: str = "") -> set[Key]:
    """The keys at which ``values`` are refused together, or as the parameter that would be ``unused``."""
    parameters = parameters_of(run, folder, values)
    problems = parameters.problems(Setting(mode, TRIALS[run].dataset)) if isinstance(parameters, Checked) else ()
    return {one.key for one in problems if not one.unused or one.key == (unused,)}


KNOWN: dict[str, list[Any]] = {}
MEASURED: list[Measurement] = []


def work(run: str, values: dict[str, Any], mode: str, folder: Path, context: Context) -> list[Any]:
    key = f"{run} {mode} {values}"
    if key not in KNOWN:
        conditions = {"mode": mode, "dataset": TRIALS[run].dataset, "scratch": folder / "scratch"}
        parameters = parameters_of(run, folder, values)
        KNOWN[key], found = work_of(run, parameters, msgspec.structs.replace(context, **conditions))
        MEASURED.extend(found)
    return KNOWN[key]


def test_every_experiment_has_a_trial() -> None:
    packaged = Path(__file__).parents[3] / "suites"
    named = {
        line.split("run:")[1].split()[0]
        for file in packaged.rglob("*.yaml")
        for line in file.read_text().splitlines()
        if line.strip().removeprefix("- ").startswith("run: ")
    }
    assert named == TRIALS.keys()
    assert {run.partition(".")[0] for run in TRIALS} == MODULES.keys()


@pytest.mark.parametrize(("run", "name", "mode"), FIELDS, ids=map(" ".join, FIELDS))
def test_a_parameter_changes_the_work_or_is_refused(
    run: str, name: str, mode: str, folder: Path, context: Context
) -> None:
    trial = TRIALS[run]
    if (run, name, mode) in EXEMPT:
        pytest.skip(EXEMPT[run, name, mode])
    other = trial.others[name]  # a new parameter needs one
    base = trial.base | (other.others if isinstance(other, With) else {})
    changed = base | {name: other.value if isinstance(other, With) else other}
    assert changed != base
    if refused(run, changed, mode, folder, name) - refused(run, base, mode, folder):
        return
    assert work(run, changed, mode, folder, context) != work(run, base, mode, folder, context)


@pytest.mark.parametrize(("run", "mode"), [(run, mode) for run in EXPERIMENTS for mode in TRIALS[run].modes])
def test_a_trial_is_accepted(run: str, mode: str, folder: Path) -> None:
    """What is refused must be what was changed."""
    assert not refused(run, TRIALS[run].base, mode, folder)


ENDS = {"_s": "s", "_ms": "ms", "_bytes": "B", "_mb": "MB", "_kb": "kB", "_j": "J", "_nats": "nats", "_bps": "bit/s"}
ENDS |= {"_mbps": "Mbit/s", "_accuracy": "fraction", "_share": "fraction", "_per_s": None, "_macs": "MAC"}


def test_a_metric_has_one_unit_in_all_experiments_and_its_name_tells_it(folder: Path, context: Context) -> None:
    units: dict[str, set[str]] = {}
    for file in Path(experiments.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("Measurement", "spread"):
                name, _, unit = call.args[:3]
                if isinstance(name, ast.Constant) and isinstance(unit, ast.Constant):
                    units.setdefault(str(name.value), set()).add(str(unit.value))
    for run in EXPERIMENTS:
        work(run, TRIALS[run].base, TRIALS[run].modes[-1], folder, context)
    for one in MEASURED:
        units.setdefault(one.metric, set()).add(one.unit)
    assert len(units) > 200
    assert {metric: found for metric, found in units.items() if len(found) > 1} == {}
    for metric, (unit,) in units.items():
        ends = max((end for end in ENDS if metric.endswith(end)), key=len, default="")
        assert ENDS.get(ends, unit) in (unit, None), (metric, unit)
