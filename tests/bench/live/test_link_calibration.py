"""What ``bench links`` tells, and the experiments on links; how far off a busy machine is, is no matter here."""

import asyncio
import json

import msgspec
import psutil
import pytest
from measured import by_case
from msgspec.structs import replace

from bench.cli.main import main
from bench.experiments.general.links import LinkSweep, computing, many, sweep
from bench.experiments.general.pipeline import ChainParameters
from bench.live import link_calibration as links
from bench.suite.experiment import Context
from bench.suite.parameter_types import decoder
from netem.calibrate import Calibration
from netem.link import LinkProfile
from netem.profiles import Duplex

FOUND = Calibration(
    rate_bps=19e6,
    delay_s=0.0051,
    delay_p99_s=0.009,
    jitter_s=0.001,
    round_trip_s=0.011,
    round_trip_p99_s=0.02,
    losses=3,
    segments=200.0,
    message_s={4096: 0.007},
)


def row(profile: LinkProfile, messages: int = 40, **found: float) -> links.CalibrationRow:
    return links.row_of(
        links.Asked("wifi", "uplink", Duplex(up=profile)), msgspec.structs.replace(FOUND, **found), messages
    )


def test_a_row_says_how_far_off_a_link_is() -> None:
    one = row(LinkProfile(rate_bps=20e6, delay_s=0.005, loss=0.01))
    assert one.rate_deviation == pytest.approx(-0.05)
    assert one.delay_deviation_s == pytest.approx(0.0001)
    assert (one.expected_losses, one.measured_loss) == pytest.approx((2.0, 0.015))
    assert one.late_s == {4096: pytest.approx(0.007 - 0.005 - 4096 * 8 / 20e6)}
    assert row(LinkProfile(delay_s=0.005)).rate_deviation == 0.0


@pytest.mark.parametrize(
    ("profile", "messages", "within"),
    [
        (LinkProfile(rate_bps=19.9e6, delay_s=0.005), 40, True),
        (LinkProfile(rate_bps=20.1e6, delay_s=0.005), 40, False),
        (LinkProfile(rate_bps=19e6, delay_s=0.0042), 40, True),
        (LinkProfile(rate_bps=19e6, delay_s=0.0040), 40, False),
        (LinkProfile(rate_bps=19e6, delay_s=0.0040, jitter_s=0.002), 40, True),  # so few draws cannot tell
        (LinkProfile(rate_bps=19e6, delay_s=0.00405, jitter_s=0.002), 10_000, True),
        (LinkProfile(rate_bps=19e6, delay_s=0.0040, jitter_s=0.002), 10_000, False),
    ],
)
def test_tolerances_are_5_percent_and_1_ms_beyond_chance(profile: LinkProfile, messages: int, within: bool) -> None:
    assert row(profile, messages).within == within


def test_the_table_fits_80_columns() -> None:
    lines = links.as_lines([row(LinkProfile(rate_bps=20e6, delay_s=0.005, loss=0.01)), row(LinkProfile())])
    assert max(map(len, lines[:-1])) <= 80
    assert "20   19.00   -5.0     5.00    5.10    0.0/1.0   2.0/3" in lines[2]


def test_the_command_prints_rows_for_every_link_and_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(links, "named", lambda: list(NAMED)[2:3])
    monkeypatch.setattr(links, "swept", lambda: list(SWEPT)[-1:])
    assert main(["links", "--json"]) == 0
    named, swept = json.loads(capsys.readouterr().out)
    assert (named["link"], named["direction"], named["rate_bps"]) == ("wifi", "uplink", 60e6)
    assert named["measured_delay_s"] > 0.001
    assert list(swept["late_s"]) == ["4096", "65536", "524288", "4194304"]
    assert min(swept["late_s"].values()) >= 0


NAMED, SWEPT = list(links.named()), list(links.swept())


def test_named_links_are_measured_both_ways_and_what_is_swept_has_its_own_delay_back() -> None:
    assert [(one.link, one.direction) for one in NAMED][:4] == [
        ("unlimited", "uplink"),
        ("unlimited", "downlink"),
        ("wifi", "uplink"),
        ("wifi", "downlink"),
    ]
    five = {one.direction: one.duplex for one in NAMED if one.link == "5g"}
    assert (five["uplink"].up, five["uplink"].down) == (five["downlink"].down, five["downlink"].up)
    assert all(one.duplex.down == LinkProfile(delay_s=one.duplex.up.delay_s) for one in SWEPT)


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, mode="live", shaping="emulated", dataset="none")


def test_a_sweep_yields_what_is_off_by_what_was_varied(context: Context) -> None:
    asked = LinkSweep(vary="delay_s", values=[0.0, 0.004], sizes_bytes=[4096], bulk_s=0.01, messages=3, busy=1)
    found = list(sweep(asked, context))
    delays = {m.case["delay_s"]: m.value for m in found if m.metric == "delay_s"}
    assert delays.keys() == {0.0, 0.004}
    assert delays[0.004] >= 0.004
    late = [m for m in found if m.metric == "message_late_s"]
    assert [m.case for m in late] == [{"delay_s": delay_s, "size_bytes": 4096} for delay_s in (0.0, 0.004)]
    assert all(m.value >= 0 for m in late)
    assert all(len([m for m in found if m.metric == name]) == 2 for name in ("rate_deviation", "delay_deviation_s"))


def test_what_computes_meanwhile_ends_with_it() -> None:
    before = set(psutil.Process().children())
    with computing(2):
        ours = set(psutil.Process().children()) - before
        assert len(ours) == 2
    assert not any(process.is_running() for process in ours)


def test_many_tasks_in_virtual_time_tell_their_latencies(context: Context) -> None:
    parameters = msgspec.convert(
        {
            "model": "nodes.zoo.small_cnn:small_cnn",
            "nodes": 4,
            "epochs": 0,
            "batch_size": 1,
            "window": 1,
            "test_samples": 50,
            "backhaul": {"up": {"delay_s": 0.01}, "down": {"delay_s": 0.005}},
            "devices": {name: {"timing": {"forward_s": 0.002}} for name in ("ue", "mec1", "mec2", "cloud")},
        },
        ChainParameters,
        dec_hook=decoder(None),
    )
    found = list(many(parameters, msgspec.structs.replace(context, mode="virtual")))
    values = by_case(found)
    assert values["tasks",] == 50
    for quantile in (0.5, 0.95):
        assert values["latency_ms", quantile] == pytest.approx(4 * 2 + 2 * 15, rel=1e-6)


def test_what_rows_of_several_links_at_once_are_measured_of_is_each_its_own() -> None:
    asked = [links.Asked(str(rate), "", Duplex(up=LinkProfile(rate_bps=rate)), (10_000,)) for rate in (2e6, 8e6)]
    slow, fast = asyncio.run(links.rows(asked, "emulated", bulk_s=0.05, messages=2, at_once=True))
    assert (slow.link, fast.link) == ("2000000.0", "8000000.0")
    assert min(slow.late_s[10_000], fast.late_s[10_000]) >= 0
