"""Many clients that keep their labels and last layers: what is counted, and what is refused."""

import pytest
from msgspec.structs import replace

from bench.experiments.edge_sl.parameters import Clients, SchemeChoice
from bench.experiments.edge_sl.schemes import course
from bench.suite.experiment import Setting
from nodes.spec.job import OptimizerSpec

SMALL = Clients(
    clients=3,
    local_steps=2,
    batch_size=4,
    side=8,
    train_samples=48,
    test_samples=30,
    optimizer=OptimizerSpec(name="adam", lr=0.005),
)


def measured(parameters: Clients, context) -> dict[str, float]:
    return {one.metric: one.value for one in course(parameters, context)}


def test_sfl_learns_the_same_network_and_its_clients_compute_more(context):
    context = replace(context, mode="in-process")
    parameters = replace(SMALL, method=SchemeChoice(scheme="sflv1"))
    sent, kept = (measured(replace(parameters, tail=tail), context) for tail in (None, 15))
    assert sent["final_accuracy"] == kept["final_accuracy"]
    assert sent["training_loss_nats"] == kept["training_loss_nats"]
    head = 3 * 4 * (3 * 2) * (2 * 512 * 10)  # forward and backward, pictures, clients' steps, the linear layer
    assert kept["client_operations"] - sent["client_operations"] == head
    assert kept["client_share"] > sent["client_share"]


def test_a_step_sends_512_numbers_a_picture_more_up_and_down(context):
    """The second cut's, before the small CNN's linear layer; and the labels no more."""
    context = replace(context, mode="virtual")
    parameters = replace(SMALL, method=SchemeChoice(scheme="psl"), links=("wifi",))
    sent, kept = (measured(replace(parameters, tail=tail), context) for tail in (None, 15))
    more, labels = 3 * 2 * 4 * (4 * 512), 3 * 2 * 4 * 8  # clients, steps, pictures, bytes
    assert kept["downlink_bytes"] - sent["downlink_bytes"] == pytest.approx(more, rel=0.05)
    assert kept["uplink_bytes"] - sent["uplink_bytes"] == pytest.approx(more - labels, rel=0.05)
    assert kept["round_s"] > sent["round_s"]


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"tail": 5}, ("tail",), "give 6 to 15"),
        ({"tail": 16}, ("tail",), "give 6 to 15"),
        ({"tail": "nothing"}, ("tail",), "no layer belongs to"),
        ({"tail": 9, "method": SchemeChoice(scheme="psl-async")}, ("tail",), "for nobody"),
        ({"tail": 9, "method": SchemeChoice(scheme="epsl", options={"phi": 0.5})}, ("tail",), "only through cut"),
    ],
)
def test_a_tail_that_cannot_be_is_a_problem(changes, key, words):
    setting = Setting("in-process", "digits")
    problems = list(replace(SMALL, **changes).problems(setting))
    assert [one.key for one in problems if words in one.message] == [key]
