"""The cellular experiments against the network's own numbers and a route by hand; and the suite as a whole."""

import statistics
from itertools import combinations

import pytest
from measured import by_case
from msgspec.structs import replace

from bench.execution.loader import load
from bench.experiments.general import cellular
from bench.suite.experiment import Context
from bench.suite.find import packaged
from netem.cellular import network
from nodes.costs.workload import load_workload


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, seed=1, mode="virtual", shaping="emulated", dataset="none")


def test_bandwidth_tells_network_and_table(context):
    found = by_case(cellular.bandwidth(cellular.NetworkParameters(duration_s=20.0), context))
    rates = network("mmwave", "mid", 0.05, 20.0, 1).rates_bps
    assert found["bandwidth_mean_mbps", "F", "network"] == pytest.approx(rates["F"].mean() / 1e6)
    assert found["bandwidth_std_mbps", "access", "network"] == pytest.approx(rates["access"].std() / 1e6)
    assert found["bandwidth_mean_mbps", "F", "Table I"] == 54.05
    assert found["bandwidth_std_mbps", "H", "Table I"] == 4.43
    assert ("bandwidth_mean", "access", "Table I") not in found
    assert len(found) == 2 * (9 + 8)


def test_a_course_is_made_of_means(context):
    found = list(cellular.course(cellular.CourseParameters(duration_s=10.0, step_s=2.0), context))
    assert len(found) == 5 * (9 + 1)
    rates = network("mmwave", "mid", 0.05, 10.0, 1).rates_bps["A"]
    second = [one.value for one in found if one.case == {"time_s": 2.0, "link": "A"}]
    assert second == [pytest.approx(rates[40:80].mean() / 1e6)]
    assert [one.value for one in found if one.metric == "hops"] == [6] * 5


def test_an_upload_crosses_the_whole_route(context):
    asked = cellular.UploadParameters(duration_s=5.0, payload_bytes=1000)
    measured = {one.metric: one.value for one in cellular.upload(asked, context)}
    rates = network("mmwave", "mid", 0.05, 5.0, 1).rates_bps
    links = ("access", "A", "C", "F", "G", "H")  # the UE starts at IAB node 1
    times = [sum(8000 / rates[link][step] for link in links) for step in range(0, 100, 10)]
    assert measured["upload_s"] == pytest.approx(statistics.fmean(times))
    assert max(times) >= measured["upload_p95_s"] > statistics.median(times)


def test_what_the_papers_upload_times_say_of_its_picture():
    """Three wireless links and F, G, H at Table I's means: 115 ms (single split) fits float32 pictures of 88x88, and
    181 ms (cloud-only) bytes of 224x224; neither fits both."""
    table = network("mmwave", "mid", 0.05, 1.0, 0).topology.table_bps

    def times_ms(n_bytes):
        routes = [(*wireless, "F", "G", "H") for wireless in combinations("ABCDE", 3)]
        return sorted(sum(8e3 * n_bytes / table[link][0] for link in route) for route in routes)

    floats, pixels = times_ms(load_workload("resnet18-88").boundary_bytes[0]), times_ms(224 * 224 * 3)
    assert (floats[0], floats[-1]) == pytest.approx((111, 120), abs=0.5)
    assert (pixels[0], pixels[-1]) == pytest.approx((179, 195), abs=0.5)


def test_a_coherence_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="is longer than duration_s"):
        cellular.NetworkParameters(coherence_s=2.0, duration_s=1.0)


def test_the_suite_claims_every_number_of_table_i():
    (suite,) = load([str(packaged()["cellular"])], checked=True)
    claims = {claim.claim: claim for claim in suite.file.claims}
    for kind in ("mmwave", "sub6"):
        for link, (mean_bps, std_bps) in network(kind, duration_s=1.0).topology.table_bps.items():
            for name, number_bps in (("mean", mean_bps), ("std", std_bps)):
                claim = claims[f"{kind}-{link.lower()}-{name}"]
                assert claim.paper == pytest.approx(number_bps / 1e6)
                assert claim.value is not None
                assert claim.value.relative == 0.1
                assert claim.value.of.experiment == kind
                assert claim.value.of.metric == f"bandwidth_{name}_mbps"
                assert claim.value.of.case == {"link": link, "source": "network"}
                assert not claim.needs_data
