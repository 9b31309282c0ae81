"""The experiment of all schemes: what it counts against closed forms, and what it refuses."""

import math
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bench.execution.plan import misfits
from bench.experiments.edge_sl.parameters import Clients, SchemeChoice
from bench.experiments.edge_sl.schemes import _balanced, _learning, course
from bench.suite.experiment import Setting
from nodes.federated.in_process import FederationOutcome, RoundOutcome
from nodes.spec.federation import Absence, ClientMove, Partition
from nodes.spec.job import OptimizerSpec, StageSpec

SMALL = Clients(
    rounds=2,
    local_steps=1,
    clients=3,
    batch_size=4,
    side=8,
    train_samples=48,
    test_samples=30,
    optimizer=OptimizerSpec(name="adam", lr=0.005),
)


def measured(parameters: Clients, context) -> dict:
    found: dict = {}
    for one in course(parameters, context):
        found.setdefault(one.metric, []).append(one.value)
    return found


def test_samples_bytes_and_operations_are_those_of_the_formulas(context):
    epsl, psl, fl = (
        measured(replace(SMALL, method=method), replace(context, mode="in-process"))
        for method in (
            SchemeChoice(scheme="epsl", options={"phi": 0.5}),
            SchemeChoice(scheme="psl"),
            SchemeChoice(scheme="fl"),
        )
    )
    assert (epsl["backward_samples_per_update"], epsl["forward_samples_per_update"]) == ([2 + 3 * 2], [3 * 4 + 2])
    assert psl["client_steps"] == fl["client_steps"] == [6]
    assert epsl["trained_pictures"] == psl["trained_pictures"] == fl["trained_pictures"] == [6 * 4]
    assert psl["client_operations"][0] == pytest.approx(fl["client_operations"][0] * psl["client_share"][0])
    shared_bytes = 2 * 2 * 64 * 4 * 4 * 4  # rounds x positions x the cut's float32 values
    assert epsl["downlink_bytes"][0] - epsl["downlink_broadcast_bytes"][0] == pytest.approx(2 * shared_bytes)
    assert len(psl["training_loss_nats"]) == len(psl["test_accuracy"]) == 2


def test_a_clock_tells_of_rounds_and_of_accuracy_by_then(context):
    found = measured(
        replace(SMALL, links=("wifi",), times_s=(1e-6, 100.0)), replace(context, mode="virtual", shaping="emulated")
    )
    assert found["total_s"][0] == pytest.approx(2 * found["round_s"][0])
    assert found["accuracy_at"] == found["final_accuracy"]  # nothing had ended by the first


@pytest.mark.parametrize(("mode", "learn"), [("in-process", True), ("virtual", True), ("virtual", False)])
def test_nothing_is_told_of_how_well_blank_pictures_are_learned(context, mode, learn):
    blank = replace(context, mode=mode, dataset="none" if learn else "digits")
    found = measured(replace(SMALL, learn=learn), blank)
    assert found["client_steps"] == [6]
    assert not [metric for metric in found if "accuracy" in metric or "loss" in metric or "trained" in metric]


def test_what_follows_clients_that_move_is_told(context):
    moving = replace(SMALL, method=SchemeChoice(scheme="sflv1"), edges=2, moves=(ClientMove(2, 1, 0),))
    found = measured(replace(moving, learn=False), replace(context, mode="virtual"))
    assert found["moved_bytes"][0] > 0
    assert "moved_bytes" not in measured(replace(moving, moves=(), learn=False), replace(context, mode="virtual"))


def test_a_mean_loss_is_of_the_steps_whose_loss_is_known():
    rounds = [RoundOutcome(round=0, edge=0, metrics={"loss": 6.0, "steps_with_loss": 4, "steps": 5})]
    (found,) = _learning(FederationOutcome(rounds=rounds, nodes=[]), 1, learned=True)
    assert (found.metric, found.value) == ("training_loss_nats", 1.5)


@pytest.mark.parametrize("mode", ["in-process", "virtual"])
@pytest.mark.parametrize("scheme", ["psl", "sl", "psl-async"])
def test_a_run_whose_loss_is_no_number_ends_there_and_has_no_accuracy(context, mode, scheme):
    """The rate of the second round is beyond all numbers; the first round's results stand."""
    diverging = OptimizerSpec(lr=0.01, momentum=0.0, factors=((1, 1e30),))
    small = replace(SMALL, rounds=9, local_steps=4, optimizer=diverging, method=SchemeChoice(scheme=scheme))
    measurements = list(course(small, replace(context, mode=mode)))
    found = {one.metric for one in measurements}
    assert found <= {"diverged", "training_loss_nats", "test_accuracy", "balanced_accuracy"}
    (ended,) = [one.case["round"] for one in measurements if one.metric == "diverged"]
    assert 2 <= ended <= 4
    losses = [one.value for one in measurements if one.metric == "training_loss_nats"]
    assert len(losses) == ended - 1
    assert all(map(math.isfinite, losses))
    assert max(one.case["round"] for one in measurements) == ended


def test_balanced_accuracy_is_the_mean_over_the_classes_that_occur():
    untested = RoundOutcome(round=0, edge=0, metrics={})
    tested = replace(untested, correct_by_class=[9.0, 0.0, 0.0], total_by_class=[10.0, 1.0, 0.0])
    assert _balanced([tested, tested, untested]) == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"cut": 99}, "cut"),
        ({"cut": "nowhere"}, "cut"),
        ({"stage": StageSpec(name="int9")}, "stage"),
        ({"slowdowns": (0.5,)}, "slowdowns"),
        ({"absences": (Absence(7, 1, 1.0),)}, "absences"),
        ({"absences": (Absence(0, 1, 1e300),)}, "absences"),
        ({"edges": 4}, "edges"),
        ({"moves": (ClientMove(0, 1, 1),)}, "moves"),
        ({"train_samples": 11}, "train_samples"),
        ({"test_samples": 2}, "test_samples"),
        ({"method": SchemeChoice(scheme="psl", options={"phi": 0.5})}, "method"),
        ({"method": SchemeChoice(scheme="sl", options={"staleness": 1})}, "method"),
        ({"method": SchemeChoice(scheme="psl", options={"staleness_exponent": 1.0})}, "method"),
        (
            {
                "method": SchemeChoice(scheme="epsl", options={"phi": 0.1}),
                "stage": StageSpec(name="nodes.stages.deprune.stage:Pruned"),
            },
            "stage",
        ),
        (
            {
                "method": SchemeChoice(scheme="epsl", options={"phi": 1.0}),
                "stage": StageSpec(name="nodes.stages.dynsplit.stage:DynSplit"),
            },
            "stage",
        ),
        ({"model": "user_models:Everything", "cut": 3}, "cut"),
        ({"method": SchemeChoice(scheme="pls")}, "method"),
        ({"method": SchemeChoice(scheme="user_schemes:no_scheme")}, "method"),
        ({"method": SchemeChoice(scheme="psl-async"), "edges": 2}, "edges"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(change, key, problems_of, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "nodes" / "support"))
    assert list(problems_of(replace(SMALL, **change))) == [(key,)]


@pytest.mark.parametrize("stage", ["identity", "float16", "int8", StageSpec(name="nodes.stages.noise:Noise")])
@pytest.mark.parametrize("method", [SchemeChoice(scheme="psl"), SchemeChoice(scheme="epsl", options={"phi": 0.5})])
def test_what_can_be_joined_is_not_refused(stage, method, problems_of):
    assert not problems_of(replace(SMALL, stage=stage, method=method))
    split = {"stage": StageSpec(name="nodes.stages.deprune.stage:Pruned"), "method": SchemeChoice(scheme="psl")}
    assert not problems_of(replace(SMALL, **split))


@pytest.mark.parametrize(
    ("change", "modes"),
    [
        ({"links": ("wifi",)}, {"live", "virtual"}),
        ({"backhaul": "wifi"}, {"live", "virtual"}),
        ({"slowdowns": (1.0, 2.0)}, {"live", "virtual"}),
        ({"times_s": (1.0,)}, {"live", "virtual"}),
        ({"client_flops": 1e9}, {"virtual"}),
        ({"server_flops": 1e9}, {"virtual"}),
        ({"learn": False}, {"virtual"}),
        ({"clients_per_process": 2}, {"live"}),
        ({"absences": (Absence(0, 1, 1.0),)}, {"live", "virtual", "in-process"}),
    ],
)
def test_what_a_mode_makes_no_use_of_is_refused(change, modes, problems_of):
    told = {mode: list(problems_of(replace(SMALL, **change), mode)) for mode in ("live", "virtual", "in-process")}
    assert {mode for mode in told if not told[mode]} == modes
    assert all(found in ([], [tuple(change)]) for found in told.values())


def test_blank_pictures_are_counted_before_a_run(problems_of):
    told = problems_of(replace(SMALL, train_samples=None, test_samples=None), "in-process", "none")
    assert told["train_samples",].endswith("blank pictures: at least 12, a batch of 4 for each of 3 clients")
    assert told["test_samples",].endswith("at least 3, one for each client")
    assert not problems_of(replace(SMALL, train_samples=12, test_samples=3), "in-process", "none")
    assert not problems_of(replace(SMALL, train_samples=None))


def test_what_several_edge_servers_alone_make_use_of_is_said():
    setting = Setting("live", "digits")
    assert [(one.key, one.unused) for one in SMALL.problems(setting)] == [
        (("backhaul",), True),
        (("cloud_every",), True),
    ]
    assert not list(replace(SMALL, edges=2).problems(setting))


@pytest.mark.parametrize(
    "given", [{"alpha": 0.1}, {"kind": "shards", "alpha": 0.1}, {"kind": "dirichlet", "shards": 3}]
)
def test_what_a_partition_makes_no_use_of_is_refused(given):
    with pytest.raises(msgspec.ValidationError, match=r"(alpha|shards) .*: of kind (dirichlet|shards) alone"):
        msgspec.convert(given, Partition)


@pytest.mark.parametrize("shaping", ["none", "emulated", "kernel", "tbf+emulated"])
def test_the_kernel_shapes_no_federation(shaping):
    told = [at for at, _ in misfits(SMALL, "live", "digits", shaping)]
    assert told == ([] if shaping in ("none", "emulated") else [("links",)])
