"""Learning rates that are chosen on pictures set aside: alike for all schemes, and by those pictures alone."""

import pytest
from msgspec.structs import replace

from bench.experiments.edge_sl import rates
from bench.experiments.edge_sl.parameters import SchemeChoice
from bench.experiments.edge_sl.rates import Tuned, tuned
from bench.experiments.edge_sl.schemes import course
from bench.suite.experiment import Measurement, Setting
from nodes.spec.federation import ClientMove
from nodes.spec.job import OptimizerSpec

SMALL = Tuned(
    rounds=2,
    local_steps=3,
    clients=3,
    batch_size=4,
    side=8,
    train_samples=60,
    test_samples=30,
    optimizer=OptimizerSpec(momentum=0.0),
    rates=((1e38, 1e38), (0.05, 0.01), (0.02, 0.01), (0.05, 0.02)),
    held_out=12,
)


def test_each_pair_is_tried_on_pictures_set_aside_and_the_first_of_the_best_trains_on_all(context, monkeypatch):
    """What a try measures is made up here, so that the choice is known."""
    seen = []

    def made_up(parameters, context, data):
        seen.append((parameters.optimizer.lr, parameters.server_lr, parameters.rounds, len(data.train), len(data.test)))
        if parameters.optimizer.lr > 1:
            yield Measurement("diverged", 1, "1", {"round": 1})
        else:
            yield Measurement("final_balanced_accuracy", 0.5 if parameters.server_lr < 0.02 else 0.25, "fraction")

    monkeypatch.setattr(rates, "trained", made_up)
    found = list(tuned(SMALL, replace(context, mode="in-process")))
    assert seen == [
        (1e38, 1e38, 1, 48, 12),
        (0.05, 0.01, 1, 48, 12),
        (0.02, 0.01, 1, 48, 12),
        (0.05, 0.02, 1, 48, 12),
        (0.05, 0.01, 2, 60, 30),
    ]
    named = [(one.metric, one.value) for one in found]
    assert named == [
        ("try_diverged", 1),
        ("validation_balanced_accuracy", 0.5),
        ("validation_balanced_accuracy", 0.5),
        ("validation_balanced_accuracy", 0.25),
        ("chosen_lr", 0.05),
        ("chosen_server_lr", 0.01),
        ("final_balanced_accuracy", 0.5),
    ]


def test_the_training_is_that_of_a_course_at_the_chosen_rates(context):
    here = replace(context, mode="in-process")
    found = {one.metric: one.value for one in tuned(SMALL, here)}
    fields = {name: getattr(SMALL, name) for name in rates.Clients.__struct_fields__}
    optimizer = OptimizerSpec(lr=found["chosen_lr"], momentum=0.0)
    alone = rates.Clients(**fields | {"optimizer": optimizer, "server_lr": found["chosen_server_lr"]})
    expected = {one.metric: one.value for one in course(alone, here)}
    assert expected["final_accuracy"] == found["final_accuracy"]
    assert expected["training_loss_nats"] == found["training_loss_nats"]


def test_a_scheme_that_never_learns_has_no_result(context):
    never = replace(SMALL, rates=((1e38, 1e38),))
    assert [one.metric for one in tuned(never, replace(context, mode="in-process"))] == ["try_diverged", "diverged"]


def test_where_clients_have_the_whole_network_the_servers_rate_makes_no_try():
    alone = replace(SMALL, method=SchemeChoice(scheme="fl"))
    assert alone.tries == [(1e38, 1e38), (0.05, 0.05), (0.02, 0.02)]
    assert len(SMALL.tries) == 4


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"server_lr": 0.1}, ("server_lr",)),
        ({"optimizer": OptimizerSpec(lr=0.1)}, ("optimizer", "lr")),
        ({"learn": False}, ("learn",)),
        ({"edges": 2, "moves": (ClientMove(0, 1, 1),)}, ("tuning_rounds",)),
        ({"held_out": 49}, ("train_samples",)),
    ],
)
def test_what_cannot_be_chosen_is_refused(change, key):
    mode = "virtual" if "learn" in change else "in-process"
    problems = list(replace(SMALL, **change).problems(Setting(mode=mode, dataset="digits")))
    assert key in [problem.key for problem in problems]
