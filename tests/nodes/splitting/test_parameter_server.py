"""Parameters to a server and back, told layer by layer; averaging; QMIX's game."""

from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.agents.qmix import PAYOFF, Agent, Mixer, parameter_bytes
from nodes.model.averaging import federated_average
from nodes.splitting.parameter_server import charge_final_layer, layer_exchange_s, model_exchange_s
from nodes.splitting.search import path_cost, search

LINKS = [(16.0, 0.5), (8.0, 0.0), (4.0, 2.0)]


def rows(count: int, width: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(0, 5), min_size=width, max_size=width), min_size=count, max_size=count)


@pytest.mark.parametrize("server", [0, 1, 2, 3])
@pytest.mark.parametrize("sizes", [[2, 4, 6], [0, 4, 0]])
def test_each_link_is_charged_what_crosses_it_on_the_way_to_the_server_and_back(server: int, sizes: list[int]) -> None:
    charged = layer_exchange_s(sizes, LINKS, server)
    for splits in combinations_with_replacement(range(4), 3):
        total = 0.0
        for link, (rate_bps, delay_s) in enumerate(LINKS):
            crossing = 0
            for layer, size in enumerate(sizes):
                holder = sum(split <= layer for split in splits)
                if min(holder, server) <= link < max(holder, server):
                    crossing += size
            total += 2 * (8 * crossing / rate_bps + delay_s) if crossing else 0
        assert path_cost([[0.0] * 3] * 4, charged, splits) == pytest.approx(total)


def test_one_that_holds_all_sends_the_whole_model() -> None:
    omega = model_exchange_s([2, 4, 6], LINKS, server=2)
    assert omega == [2 * (6 + 0.5) + 2 * 12, 2 * 12, 0, 2 * (24 + 2)]
    charged = layer_exchange_s([2, 4, 6], LINKS, server=2)
    for node, cost in enumerate(omega):
        assert path_cost([[0.0] * 3] * 4, charged, [0] * node + [3] * (3 - node)) == cost


@settings(max_examples=60)
@given(rows(3, 3), rows(2, 4), st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_equation_13_charges_whoever_computes_the_final_layer(
    layer_costs: list[list[int]], link_costs: list[list[int]], omega: list[int]
) -> None:
    oracle = {
        splits: path_cost(layer_costs, link_costs, splits) + omega[sum(split < 3 for split in splits)]
        for splits in combinations_with_replacement(range(4), 2)
    }
    found = search(charge_final_layer(layer_costs, omega), link_costs)
    assert found.cost == min(oracle.values()) == oracle[tuple(found.splits)]


def test_the_average_is_weighted_by_samples() -> None:
    states = [{"w": torch.tensor(w), "n": torch.tensor(n)} for w, n in (([1.0, 2.0], 4), ([5.0, 4.0], 7))]
    average = federated_average(states, [3, 1])
    assert average["w"].tolist() == [2.0, 2.5]
    assert (average["n"].item(), average["n"].dtype) == (5, torch.int64)
    # As in federated SGD: equal starts, one step each, averaged, are the step on all samples.
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(12, 3, generator=generator, dtype=torch.float64), torch.randn(12, generator=generator).double()

    def stepped(rows: slice) -> dict[str, torch.Tensor]:
        w = torch.ones(3, dtype=torch.float64, requires_grad=True)
        ((x[rows] @ w - y[rows]) ** 2).mean().backward()
        return {"w": (w - 0.1 * w.grad).detach()}

    average = federated_average([stepped(slice(0, 4)), stepped(slice(4, 12))], [4, 8])
    torch.testing.assert_close(average["w"], stepped(slice(0, 12))["w"])


@pytest.mark.parametrize("states", [[], [{"a": torch.zeros(1)}, {"b": torch.zeros(1)}]])
def test_states_that_do_not_fit_are_refused(states: list[dict[str, torch.Tensor]]) -> None:
    with pytest.raises(ValueError, match="same names"):
        federated_average(states, [1] * len(states))


def test_no_sum_of_the_agents_values_sees_the_8() -> None:
    """Why VDN settles for 7: the least-squares sum over the second game is 6.5 at most."""
    actions = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    columns = torch.cat([torch.nn.functional.one_hot(actions[:, agent], 2).double() for agent in range(2)], 1)
    payoffs = PAYOFF[1, actions[:, 0], actions[:, 1]].double()[:, None]
    fitted = columns @ torch.linalg.pinv(columns) @ payoffs
    assert fitted.max().item() == pytest.approx(6.5)


def test_the_mixed_value_never_falls_as_an_agents_rises() -> None:
    torch.manual_seed(5)
    mixer = Mixer(agents=3, state=4, hidden=8)
    values, state = torch.randn(64, 3, requires_grad=True), torch.randn(64, 4)
    mixer(values, state).sum().backward()
    assert (values.grad >= 0).all()
    assert (values.grad > 0).any()


def test_parameter_bytes_are_those_of_float32() -> None:
    gru = 3 * 8 * (8 + 8) + 2 * 3 * 8
    assert parameter_bytes(Agent(observation=5, hidden=8, actions=2)) == 4 * ((5 + 1) * 8 + gru + (8 + 1) * 2)
