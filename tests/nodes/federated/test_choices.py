"""Choices of a federation beside its scheme: batch norm, a sample of the clients, a learning rate for servers."""

import itertools

import pytest
import torch
from family_oracle import Family, assert_trained_as, drawn_data, federation_of, trained_states
from federations import make_federation, same, trained

from netem.profiles import Duplex
from nodes.federated.in_process import run_in_process, run_in_virtual_time
from nodes.federated.schemes import ClientState, RoundState, scheme_of
from nodes.federated.schemes.base import Decisions
from nodes.model.factory import build_model
from nodes.spec.federation import SchemeSpec

DATA = drawn_data(43)


@pytest.mark.parametrize("scheme", ["fl", "sflv1", "psl-averaged", "sflv2", "sl"])
def test_local_batch_norm_is_each_clients_own_and_all_else_is_shared(scheme):
    run = trained(make_federation(scheme, batch_norm="local"))
    one, other = (run.states[name] for name in ("client1", "client2"))
    norms = [name for name in one if one[name.rpartition(".")[0] + ".weight"].dim() == 1 and "running" in name]
    local = {f"{name.partition('.')[0]}.{key}" for name in norms for key in ("weight", "bias", "running_mean")}
    assert len(local) >= 3
    for name in one:
        counts = name.endswith("num_batches_tracked")
        assert counts or torch.equal(one[name], other[name]) == (name not in local and "running" not in name), name


def test_split_federated_learning_with_local_batch_norm_is_federated_learning():
    one, other = (trained(make_federation(scheme, batch_norm="local")) for scheme in ("sflv1", "fl"))
    for number, name in enumerate(("client1", "client2", "client3")):
        copy = one.local.made["edge1"][1]._segments[number].state()
        assert same(one.states[name] | copy, other.states[name])
    assert one.outcome.rounds[-1].correct_by_class == other.outcome.rounds[-1].correct_by_class


@pytest.mark.parametrize("scheme", ["fl", "sflv1"])
def test_shapes_alone_tell_the_bytes_of_what_is_shared(scheme):
    federation = make_federation(scheme, batch_norm="local", test_every=0)
    links = dict.fromkeys((*federation.client_names, *federation.edge_names), Duplex())
    found, expected = run_in_virtual_time(federation, links, learn=False), run_in_process(federation)
    for name in ("uplink_bytes", "downlink_bytes"):
        assert [one.metrics[name] for one in found.rounds] == [one.metrics[name] for one in expected.rounds]


@pytest.mark.parametrize(("served", "over"), [(5, False), (6, True), (7, True)])
def test_where_clients_do_not_wait_a_round_ends_after_as_many_steps_as_all_would_take(served, over):
    present = RoundState(steps=3, expected=2, served=served)
    assert scheme_of(make_federation("psl-async", local_steps=3)).is_over(present) is over
    assert not scheme_of(make_federation("psl")).is_over(present)


def test_a_sample_of_the_clients_trains_in_each_round():
    """By the rule of lots alone; over many rounds each client is drawn as often as any other."""
    federation = make_federation("psl", clients=5, participants=2, rounds=2)
    decisions = Decisions(scheme_of(federation), federation)
    present = [ClientState(name=f"client{index + 1}", index=index, samples=20) for index in range(5)]
    drawn = [[one.index for one in decisions.select(RoundState(number=number), present)] for number in range(500)]
    assert all(len(one) == 2 and one == sorted(one) for one in drawn)
    counts = [sum(one.count(client) for one in drawn) for client in range(5)]
    assert min(counts) > 200 - 45  # four standard deviations of 500 draws with probability 2/5
    without = [one for one in present if one.index != drawn[0][0]]
    again = [one.index for one in decisions.select(RoundState(number=0), without)]
    assert drawn[0][1] in again  # the others' lots do not change
    run = trained(federation)
    assert [one.metrics["participants"] for one in run.outcome.rounds] == [2, 2]
    steps = {node.name: node.steps for node in run.outcome.nodes}
    taken = list(itertools.chain(drawn[0], drawn[1]))
    assert [steps[f"client{index + 1}"] for index in range(5)] == [2 * taken.count(index) for index in range(5)]


def test_servers_may_have_a_learning_rate_of_their_own(tmp_path):
    federation = federation_of(tmp_path, "still", SchemeSpec(name="psl"), server_lr=0.02, rounds=1)
    oracle = Family(federation, DATA)
    oracle.theirs[0].param_groups[0]["lr"] = 0.02
    for _ in range(5):
        oracle.joint()
    assert_trained_as(oracle, federation, DATA)


def test_psl_on_a_share_of_the_batch_is_psl_with_smaller_batches_and_as_many_steps(tmp_path):
    share = federation_of(tmp_path, "normed", SchemeSpec(name="psl", options={"share": 0.6}), local_steps=None)
    small = federation_of(tmp_path, "normed", SchemeSpec(name="psl"), {"batch_size": 2}, local_steps=3)
    for one, other in zip(
        itertools.chain(*trained_states(share, DATA)), itertools.chain(*trained_states(small, DATA)), strict=True
    ):
        assert same(one, other)


def test_group_norm_lets_no_sample_depend_on_another():
    model = build_model("group_resnet18", 10, (3, 32, 32), 0).train()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("scheme", "changes", "expected"),
    [
        ("psl-async", {"participants": 2}, "participants: scheme psl-async begins no round"),
        ("psl", {"batch_norm": "local"}, "batch_norm: scheme psl shares no clients' parts"),
        ("psl", {"participants": 0}, "participants 0: from 1 on"),
        ("psl", {"server_lr": 0.0}, "server_lr 0.0: expected a rate above 0"),
    ],
)
def test_choices_that_do_not_fit_are_refused(scheme, changes, expected):
    with pytest.raises(ValueError, match=expected):
        scheme_of(make_federation(scheme, **changes))
