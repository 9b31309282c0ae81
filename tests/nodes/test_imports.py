"""Modules that names may lead to on a node: a runner starts no program of the node's machine by a name."""

import subprocess
import sys

import pytest

from nodes.federated.schemes.builtin import SCHEMES
from nodes.imports import load_callable, modules_allowed
from nodes.model.factory import BUILT_IN as MODELS
from nodes.model.factory import build_model
from nodes.spec.federation import Federation, SchemeSpec
from nodes.spec.job import Job, StageSpec
from nodes.spec.modules import modules_of
from nodes.spec.service import Pace, Service
from nodes.stages.builtin import BUILT_IN as STAGES


@pytest.mark.parametrize(
    "name",
    [
        "subprocess:call",
        "os:system",
        "builtins:exec",
        "antigravity:webbrowser.open",
        "nodes.user_modules:os.system",
        "nodes.files:os.system",
        "nodes.zoo.small_cnn:torch.load",
        "nodes.stages.builtin:load_callable",
        "nodes.stages.picture_codec:io.open",
        "torchvision.models.resnet:torch.load",
        "nodes.zoo_of_another:anything",
    ],
)
def test_names_of_other_modules_are_refused_before_their_import(name: str) -> None:
    before = set(sys.modules)
    with modules_allowed([]), pytest.raises(ValueError, match=r"this node may not import|has no|cannot be imported"):
        load_callable(name)
    assert "antigravity" not in set(sys.modules) - before


def test_an_allowed_module_and_no_other_is_imported() -> None:
    with modules_allowed(["subprocess"]):
        assert load_callable("subprocess:call") is subprocess.call
        with pytest.raises(ValueError, match="this node may not import os; start it with --allow os"):
            load_callable("os:system")
    assert callable(load_callable("os:system"))


def test_what_is_built_in_is_always_allowed() -> None:
    named = [*MODELS.values(), *STAGES.values()]
    with modules_allowed([]):
        assert all(callable(load_callable(name)) for name in named)
        assert SCHEMES
        assert build_model("small_cnn", 10, (3, 16, 16), 0) is not None
        assert load_callable("torchvision.models:resnet18").__name__ == "resnet18"


def test_a_run_names_the_modules_of_its_callables() -> None:
    job = Job(
        model='mine.nets:make{"width": 2}',
        input_shape=(3, 16, 16),
        classes=10,
        nodes=("ue", "mec"),
        splits=(2,),
        stages=(StageSpec(name="coder:Stage"),),
    )
    assert modules_of(job) == ("coder", "mine.nets")
    assert modules_of(Federation(job=job, scheme=SchemeSpec(name="rounds:Mine"))) == ("coder", "mine.nets", "rounds")
    assert modules_of(Service(model="small_cnn", input_shape=(3, 16, 16), classes=10, pace=Pace(tasks=1))) == ()
