"""Traffic control settings by hand, by closed forms, and against pyroute2's encoder."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.tcmsg import sched_netem, sched_tbf

from netem.jitter import quantile
from netem.kernel import tc
from netem.link import LinkProfile

FULL = (1 << 32) - 1


def attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by type, without padding."""
    found = {}
    while data:
        length, kind = struct.unpack_from("<HH", data)
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def test_profiles_by_hand():
    profile = LinkProfile(rate_bps=30e6, delay_s=0.010, jitter_s=0.002, loss=1e-5, duplicate=0.25, reorder=0.5)
    # 3.75 MB/s: 18 ms in flight, 67,500 bytes; 20 ms queued, 75,000 bytes; 98.4 segments of 1,448. A loss of 42,949.67.
    assert tc.netem(profile) == tc.Netem(
        **{"delay_ns": 10_000_000, "jitter_ns": 2_000_000, "distribution": "normal", "delay_correlation": 0},
        **{"limit_packets": 99, "loss": 42_950, "loss_chain": None, "duplicate": 1_073_741_824},
        **{"reorder": 2_147_483_648, "rate": 3_750_000},
    )
    assert tc.tbf(LinkProfile(rate_bps=100e6)) == tc.Tbf(rate=12_500_000, burst_bytes=6250, limit_bytes=6250 + 250_000)
    assert tc.tbf(LinkProfile(rate_bps=1e6)) == tc.Tbf(rate=125_000, burst_bytes=2896, limit_bytes=2896 + 32_768)
    assert tc.tbf(LinkProfile(delay_s=0.1)).rate == FULL


def test_the_limit_allows_a_round_trip_beside_packets_in_flight():
    def limit(**profile: float) -> int:
        return tc.netem(LinkProfile(**profile)).limit_packets

    bdp = 100e6 / 8 * 0.050 / 1448  # 431.6 segments in one direction
    assert 3 * bdp <= limit(rate_bps=100e6, delay_s=0.050) <= 3 * bdp + 1
    assert limit(rate_bps=8e3) == 23  # 32 KiB at the least
    assert limit(rate_bps=100e6, delay_s=0.05, limit_packets=7) == 7


def test_correlated_losses_are_a_two_state_chain():
    settings = tc.netem(LinkProfile(loss=0.1, loss_correlation=0.5))
    good_to_bad, bad_to_good = (share / FULL for share in settings.loss_chain)
    assert settings.loss == 0
    assert good_to_bad / (good_to_bad + bad_to_good) == pytest.approx(0.1)  # the chain's share in the bad state
    assert 1 - good_to_bad - bad_to_good == pytest.approx(0.5)  # and its second eigenvalue
    assert tc.netem(LinkProfile(loss=0.1)).loss_chain is None
    assert tc.netem(LinkProfile(loss_correlation=0.5)).loss_chain is None


@pytest.mark.parametrize("rate_bps", [1.0, 8.0, 5e11])
def test_a_rate_stays_in_32_bits_and_above_zero(rate_bps):
    assert 1 <= tc.netem(LinkProfile(rate_bps=rate_bps)).rate <= FULL


shares = st.floats(0, 1, exclude_max=True)


timings = {"rate_bps": st.floats(1e3, 1e10), "delay_s": st.integers(1, 1000).map(lambda ms: ms / 1e3)}
packets = {"reorder": st.floats(0.001, 0.99), "limit_packets": st.integers(1, 100_000)}


@given(st.builds(LinkProfile, loss=shares, duplicate=shares, **timings, **packets))
def test_pyroute2_encodes_the_same_netem(profile):
    shares = {"loss": profile.loss, "duplicate": profile.duplicate, "prob_reorder": profile.reorder}
    rest = {"delay": profile.delay_s * 1e6, "limit": profile.limit_packets, "rate": round(profile.rate_bps / 8)}
    expected = sched_netem.get_parameters({name: 100 * share for name, share in shares.items()} | rest)
    data = tc.options("netem", profile)
    _, limit, loss, gap, duplicate, _ = struct.unpack_from("<IIIIII", data)  # tc_netem_qopt: latency and jitter too
    assert (limit, gap) == (expected["limit"], expected["gap"])
    assert (loss, duplicate) == pytest.approx((expected["loss"], expected["duplicate"]), abs=2)
    ours, theirs = attributes(data[24:]), dict(expected["attrs"])
    assert struct.unpack("<q", ours[10]) == (round(profile.delay_s * 1e9),)  # 64 bits, in nanoseconds
    assert struct.unpack("<II", ours[3])[0] == pytest.approx(theirs["TCA_NETEM_REORDER"]["prob_reorder"], abs=2)
    assert struct.unpack("<IiIi", ours[6]) == tuple(theirs["TCA_NETEM_RATE"].values())
    assert struct.unpack("<III", ours[1]) == (0, 0, 0)


def test_pyroute2_encodes_the_same_tbf():
    settings = tc.tbf(LinkProfile(rate_bps=40e6))
    given = {"rate": settings.rate, "burst": settings.burst_bytes, "limit": settings.limit_bytes}
    expected = dict(sched_tbf.get_parameters(given)["attrs"])["TCA_TBF_PARMS"]
    ours = attributes(tc.options("tbf", LinkProfile(rate_bps=40e6)))
    # tc_tbf_qopt: two tc_ratespec of 12 bytes, of which the second is the peak's; limit, buffer, mtu.
    ethernet, rate, limit, mtu = struct.unpack("<xB2x2x2xI12xI4xI", ours[1])
    assert (ethernet, rate, limit, mtu) == (1, expected["rate"], expected["limit"], expected["mtu"])
    assert struct.unpack("<I", ours[6]) == (settings.burst_bytes,)


def test_only_jitter_sends_a_table_and_packets_count_as_their_payload():
    assert 2 not in attributes(tc.options("netem", LinkProfile(delay_s=0.1))[24:])
    data = tc.options("netem", LinkProfile(delay_s=0.1, jitter_s=0.01, jitter_distribution="pareto"))[24:]
    table = struct.unpack("<4096h", attributes(data)[2])
    assert table[1024] == pytest.approx(8192 * quantile("pareto", 0.25), abs=2)
    assert table[-1] == 32767
    base = attributes(tc.size_table())[1]
    assert struct.unpack("<BBhiIIII", base) == (0, 0, 0, -66, 1, 0, 0, 0)
