"""Energy alone hands on what costs the same further on."""

from math import inf

from bench.experiments.hivemind.network.objectives import handing_on
from nodes.splitting.objectives import ChainMetric
from nodes.splitting.search import search


def test_of_servers_without_a_cost_the_last_computes():
    costs = ChainMetric([[3.0, 3.0], [0.0, 0.0], [inf, inf], [0.0, 0.0]], [[1.0, 1.0, 0.0], *[[0.0] * 3] * 2])
    assert search(*costs).splits == [0, 2, 2]
    assert search(*handing_on(costs)).splits == [0, 0, 0]


def test_what_costs_less_stays():
    costs = ChainMetric([[3.0, 3.0], [0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0, 0.0], [0.1, 0.2, 0.0]])
    assert search(*handing_on(costs)).splits == [0, 2]
