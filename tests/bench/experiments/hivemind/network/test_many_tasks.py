"""Many tasks at once are the tasks that are played one by one, and their search is that of the nodes."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.experiments.general.cellular import generated
from bench.experiments.hivemind.network.dynamics import on_chain, showcase
from bench.experiments.hivemind.network.many_tasks import (
    ChainSearch,
    Foresight,
    gaps_s,
    latencies_ms,
    many_tasks,
    play,
)
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, fastest, make_field, update_times
from bench.experiments.hivemind.network.tasks import Field, foreseen, present, tasks
from nodes.splitting.search import search

# Sums of these are exact, so that equal costs are equal in both searches.
COSTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])


@st.composite
def chains(draw):
    nodes, layers = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    rows = st.one_of(st.just([inf] * layers), st.lists(COSTS, min_size=layers, max_size=layers))
    layer_s = draw(
        st.lists(rows, min_size=nodes, max_size=nodes).filter(lambda rows: any(row[0] < inf for row in rows))
    )
    frame_bytes = [*draw(st.lists(st.sampled_from([0, 1, 2, 8, 64]), min_size=layers, max_size=layers)), 0]
    rates = st.lists(st.sampled_from([4.0, 8.0, 16.0, 64.0]), min_size=nodes - 1, max_size=nodes - 1)
    return layer_s, frame_bytes, draw(st.lists(rates, min_size=1, max_size=4)), draw(st.sampled_from([0.0, 0.5]))


@given(chains())
def test_the_search_finds_the_splits_of_the_nodes(chain):
    layer_s, frame_bytes, rates_bps, delay_s = chain
    found = ChainSearch(layer_s, frame_bytes).splits(np.array(rates_bps), delay_s)
    for splits, rates in zip(found.tolist(), rates_bps, strict=True):
        link_s = [[8 * size / rate + delay_s if size else 0.0 for size in frame_bytes] for rate in rates]
        assert splits == search(layer_s, link_s).splits


def field_in(network: str, transfer: str) -> Field:
    if network == "chain":
        return on_chain(showcase(0.05, 30.0, 3), transfer=transfer)
    return make_field(generated(network, "high", 0.05, 140.0, 3), "resnet18-88", transfer=transfer)


@pytest.mark.parametrize("transfer", ["integral", "instant"])
@pytest.mark.parametrize("network", ["mmwave", "sub6", "chain"])
def test_many_tasks_are_the_tasks_one_by_one(network, transfer):
    field = field_in(network, transfer)
    times_s = update_times(30.0 if network == "chain" else 140.0, 80, 0)
    for strategy in ("hivemind", "single-split") if network == "chain" else MAY_COMPUTE:
        decide = fastest(field, strategy)
        assert many_tasks(field, strategy, times_s) == tasks(field, decide, present(field), times_s)
        assert many_tasks(field, strategy, times_s, Foresight()) == tasks(field, decide, foreseen(field), times_s)
        parts, foreseen_tasks = (
            play(field, strategy, times_s, Foresight()),
            tasks(field, decide, foreseen(field), times_s),
        )
        assert latencies_ms(parts) == [round(1e3 * one.latency_s, 6) for one in foreseen_tasks]
        gaps = [gap_s for one in foreseen_tasks for gap_s in field.gaps_s(one, "arrival")]
        assert sorted(gaps_s(parts)) == pytest.approx(sorted(gaps))
        rule = tasks(field, decide, foreseen(field, coherence_s=0.03), times_s)
        assert many_tasks(field, strategy, times_s, Foresight(coherence_s=0.03)) == rule


def test_errors_of_a_forecast_are_drawn_around_the_rate():
    field = field_in("chain", "instant")
    times_s = update_times(30.0, 400, 0)
    exact, wrong = (many_tasks(field, "hivemind", times_s, Foresight(error, seed=1)) for error in (0.0, 0.5))
    mean = [np.mean([one.latency_s for one in traces]) for traces in (exact, wrong)]
    assert mean[0] < mean[1]
    assert wrong == many_tasks(field, "hivemind", times_s, Foresight(0.5, seed=1))
    assert wrong != many_tasks(field, "hivemind", times_s, Foresight(0.5, seed=2))


def test_no_task_is_none():
    assert many_tasks(field_in("chain", "integral"), "hivemind", []) == []
