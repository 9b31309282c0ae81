"""Cellular networks: routes by hand, Table I over several seeds, loads, coherence and determinism."""

import numpy as np
import pytest

from netem.cellular import network
from netem.cellular.iab import TOPOLOGIES
from netem.cellular.mobility import distances
from netem.cellular.network import bandwidth_left
from netem.cellular.radio import MMWAVE
from netem.cellular.traffic import CORRELATION, Background, fit, levels
from netem.link import LinkProfile
from netem.trace import read, write_csv

CORE = ("iab6", "mec7", "mec8", "cloud")


def test_routes_sites_and_populations_by_hand():
    mmwave = TOPOLOGIES["mmwave"]
    by_hand = {"13": "ACFGH", "245": "BDEFGH", "3": "CFGH", "45": "DEFGH", "5": "EFGH", "": "FGH"}
    for nodes, links in by_hand.items():
        route = mmwave.route(f"iab{(nodes or '6')[0]}")
        assert route.nodes == ("ue", *(f"iab{number}" for number in nodes), *CORE)
        assert route.links == ("access", *links)
    sub6 = TOPOLOGIES["sub6"].route("gnb")
    assert (sub6.nodes, sub6.links) == (("ue", "gnb", "mec", "cloud"), ("A", "B", "C"))
    assert all(0 <= metres <= 1000 for cell in mmwave.cells for metres in cell.site)
    assert mmwave.carrier is MMWAVE
    below = {cell.name: cell.background.population for cell in mmwave.cells}
    for link in mmwave.backhaul[:6]:  # A to F, each after those below it
        assert link.background.population == below[link.near], link.name
        below[link.far] = below.get(link.far, 0) + below[link.near]


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_table_i_within_a_tenth_for_every_seed(kind):
    for seed in range(5):
        found = network(kind, duration_s=200.0, seed=seed)
        for link, (mean_bps, std_bps) in found.topology.table_bps.items():
            assert found.rates_bps[link].mean() == pytest.approx(mean_bps, rel=0.1), (seed, link)
            assert found.rates_bps[link].std() == pytest.approx(std_bps, rel=0.1), (seed, link)


@pytest.mark.parametrize(("kind", "link"), [("mmwave", "A"), ("mmwave", "H"), ("sub6", "B")])
def test_backgrounds_are_reproduced_by_fitting(kind, link):
    (backhaul,) = (one for one in TOPOLOGIES[kind].backhaul if one.name == link)
    found = fit(backhaul.capacity_bps, backhaul.background.population, *backhaul.table_bps)
    assert found.bitrate_bps == pytest.approx(backhaul.background.bitrate_bps, rel=0.03)
    assert found.spread == pytest.approx(backhaul.background.spread, rel=0.05)


def test_more_load_leaves_less_and_capacity_is_never_exceeded():
    by_load = {load: network("mmwave", load, duration_s=60.0) for load in ("low", "mid", "high")}
    for link in TOPOLOGIES["mmwave"].backhaul:
        means = [by_load[load].rates_bps[link.name].mean() for load in ("high", "mid", "low")]
        assert means == sorted(means)
        for load, found in by_load.items():
            rates = found.rates_bps[link.name]
            fair = link.capacity_bps / (link.background.at(load).population + 1)
            assert (rates >= fair * (1 - 1e-9)).all()
            assert (rates <= link.capacity_bps).all()


def test_bandwidth_left_is_an_airtime_share_by_hand():
    ue_bps, background_bps = np.full(3, 100e6), np.array([10e6, 50e6])
    steady = Background(2, 5e6, 0.0)  # 5 Mbit/s need half the airtime at 10 Mbit/s, a tenth at 50: 0.9 is left for two
    assert bandwidth_left(ue_bps, background_bps, steady, np.random.default_rng(0)) == pytest.approx([45e6] * 3)


def test_the_access_link_follows_the_radio_and_the_cell():
    found = network("mmwave", "high", coherence_s=0.5, duration_s=140.0)
    cells = found.topology.cells
    places = found.topology.trajectory.positions(np.arange(280) * 0.5)
    alone = MMWAVE.rate_bps(distances(places, np.array([cell.site for cell in cells])))[range(280), found.serving]
    others = np.array([cell.background.at("high").population for cell in cells])[found.serving]
    access = found.rates_bps["access"]
    assert (access <= alone).all()
    assert (access >= alone / (others + 1) * (1 - 1e-9)).all()
    assert set(others.tolist()) == {4, 8}


def test_a_load_scales_population_and_bit_rate_which_has_the_mean_spread_and_correlation_of_the_background():
    assert Background(4, 10.0, 0.5).at("high") == Background(8, 20.0, 0.5)
    assert Background(4, 10.0, 0.5).at("low") == Background(2, 5.0, 0.5)
    with pytest.raises(ValueError, match=r"load low: a population of 3 times 0\.5 is not a whole number"):
        Background(3, 10.0, 0.5).at("low")
    drawn = levels(200_000, 2, np.random.default_rng(0))
    demands = Background(2, 5e6, 0.4).demands_bps(drawn)
    assert demands.mean() == pytest.approx(5e6, rel=0.01)
    assert np.log(demands).std() == pytest.approx(0.4, rel=0.01)
    for lag in (1, 2, 3):
        assert np.corrcoef(drawn[:-lag, 0], drawn[lag:, 0])[0, 1] == pytest.approx(CORRELATION**lag, abs=0.01)


def test_handovers_along_the_trajectory_change_the_route():
    found = network("mmwave", coherence_s=0.05, duration_s=140.0)
    routes = found.routes()
    cells = [route.nodes[1] for _, route in routes]
    assert cells == ["iab1", "iab2", "iab4", "iab5", "iab6", "iab3", "iab1"]  # round the loop, 137 s
    assert len(routes[1][1].links) == len(routes[0][1].links) + 1  # from gNB 1 to gNB 2 one hop more (figure 15)
    at_s = routes[1][0]
    assert found.route(at_s - 0.01).nodes[1] == "iab1"
    assert found.route(at_s).nodes[1] == "iab2"
    assert found.route(at_s + found.duration_s) == found.route(at_s)  # it starts again
    assert network("sub6", duration_s=10.0).routes() == [(0, TOPOLOGIES["sub6"].route("gnb"))]


def test_a_trace_is_the_network_s_rate(tmp_path):
    found = network("mmwave", coherence_s=0.01, duration_s=2.0, seed=3)
    trace = found.trace("F")
    assert trace.period_s == pytest.approx(2.0)
    write_csv(trace, tmp_path / "f.csv")
    base = LinkProfile(delay_s=0.002)
    schedule = list(read(tmp_path / "f.csv").schedule(base, repeat=False))
    assert len(schedule) == 200
    for at_s, profile in schedule:
        assert profile == LinkProfile(rate_bps=found.rate_bps("F", at_s), delay_s=0.002)


def test_rates_depend_on_the_seed_alone():
    def rates(seed):
        return network("mmwave", duration_s=5.0, seed=seed).rates_bps

    one, again, other = rates(1), rates(1), rates(2)
    assert list(one) == ["access", *"ABCDEFGH"]
    for link in one:
        assert np.array_equal(one[link], again[link])
        assert not np.array_equal(one[link], other[link])


@pytest.mark.parametrize(
    ("coherence_s", "duration_s", "error"),
    [(0.0, 1.0, "0 < coherence_s"), (2.0, 1.0, "0 < coherence_s"), (1e-6, 600.0, "expected at most 2000000")],
)
def test_invalid_times_are_rejected(coherence_s, duration_s, error):
    with pytest.raises(ValueError, match=error):
        network("mmwave", coherence_s=coherence_s, duration_s=duration_s)
