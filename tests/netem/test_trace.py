"""Traces by hand, against a per-millisecond packet oracle and a link that follows them; invalid files."""

import errno
import math
import os
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.link import Link, LinkProfile
from netem.trace import PACKET_BYTES, STALLED_BPS, RateChange, Trace, TraceError, read, write_csv, write_mahimahi
from netem.traces import packaged


def written(text: str, folder: Path, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def carried(trace: Trace, until_s: float) -> float:
    """Bytes carried by ``until_s``, by definition."""
    return sum(max(0.0, min(end, until_s) - start) * rate / 8 for start, end, rate in trace.spans())


rates = st.one_of(st.just(0.0), st.floats(1e3, 1e8))
traces = st.lists(st.tuples(st.integers(1, 40), rates), min_size=1, max_size=6).map(
    lambda parts: Trace(
        tuple(RateChange(sum(ms for ms, _ in parts[:index]) / 1000, rate) for index, (_, rate) in enumerate(parts)),
        sum(ms for ms, _ in parts) / 1000,
    )
)


def test_a_csv_row_holds_until_the_next_and_a_single_one_for_a_second(tmp_path):
    text = "time_s,rate_bps,loss,delay_s\n0,8e6,0,0.01\n\n0.25, 16e6 ,1e-3,0.02\n"
    trace = read(written(text, tmp_path))
    assert trace == Trace((RateChange(0, 8e6, 0.01, None, 0.0), RateChange(0.25, 16e6, 0.02, None, 1e-3)), 0.5)
    assert trace.delivered_bytes == pytest.approx(0.25 * 1e6 + 0.25 * 2e6)
    expected = Trace((RateChange(0, 8e6),), 1.0)
    assert read(written("time_s,rate_bps\n0,8e6\n", tmp_path, "a.CSV")) == expected
    assert read(written("\ufefftime_s,rate_bps\n0,8e6\n", tmp_path)) == expected


def test_packets_of_a_millisecond_pass_at_its_end_nothing_between_them_and_the_last_marks_a_period(tmp_path):
    trace = read(written("1\n1\n3\n3\n3\n", tmp_path, "down.trace"))
    rates = [(0.0, 0.0), (0.0009, 240e6), (0.001, 0.0), (0.0029, 360e6)]
    assert [(change.time_s, change.rate_bps) for change in trace.changes] == rates
    assert (trace.period_s, trace.delivered_bytes) == (0.003, pytest.approx(5 * PACKET_BYTES))
    trace = read(written("0\n0\n1\n", tmp_path, "up"))  # some may pass at once
    assert [change.rate_bps for change in trace.changes] == [240e6, 0, 120e6]
    assert read(written("10000000000\n", tmp_path, "up")).period_s == 1e7
    write_mahimahi(Trace((RateChange(0, 12e6),), 0.0105), tmp_path / "m")
    assert (tmp_path / "m").read_text().split() == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "11"]


@given(traces)
def test_csv_round_trip_is_lossless(tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("t") / "a.csv"
    write_csv(trace, path)
    found = read(path)
    assert found.period_s == pytest.approx(trace.period_s)
    assert found.delivered_bytes == pytest.approx(trace.delivered_bytes)
    assert found.changes[: len(trace.changes)] == trace.changes


@given(traces)
def test_packets_carry_the_same_bytes_at_every_millisecond(tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("t") / "m"
    if trace.delivered_bytes < PACKET_BYTES:
        with pytest.raises(TraceError, match="less than one packet"):
            write_mahimahi(trace, path)
        return
    write_mahimahi(trace, path)
    times_ms = [int(line) for line in path.read_text().split()]
    found = read(path)
    assert found.period_s == pytest.approx(trace.period_s)
    for ms in range(round(trace.period_s * 1000) + 1):
        listed = sum(PACKET_BYTES for at_ms in times_ms if 0 < at_ms <= ms)
        assert -0.1 <= carried(trace, ms / 1000) - listed <= 2 * PACKET_BYTES  # the last marks the period's end
        assert abs(carried(found, ms / 1000) - listed) < 1e-3
    assert 0 <= trace.delivered_bytes - found.delivered_bytes + 1e-3 < PACKET_BYTES + 2e-3


packets = st.lists(st.integers(0, 60), min_size=1, max_size=20).map(sorted).filter(lambda ms: ms[-1] > 0)


@given(packets, st.integers(0, 150), st.integers(1, 6))
def test_packets_leave_a_link_at_the_milliseconds_of_the_trace(tmp_path_factory, times_ms, begin_ms, count):
    """Mahimahi's own rule: a packet that has come takes the next millisecond listed; one not used is lost."""
    path = tmp_path_factory.mktemp("t") / "m"
    path.write_text("# of a drive\n" + "".join(f"{ms}\n" for ms in times_ms))
    link = Link(LinkProfile(), random.Random(0))
    link.play(read(path).schedule(LinkProfile()))
    begin_s = begin_ms / 1000 + 0.0004
    chances = (period * times_ms[-1] + ms for period in range(1000) for ms in times_ms)
    due = islice((ms for ms in chances if ms > begin_ms), count)
    for ms in due:
        assert link.send(begin_s, PACKET_BYTES) == pytest.approx(ms / 1000, abs=0.00011)


@given(packets.filter(lambda ms: ms[0] > 0))
def test_packets_round_trip_is_lossless(tmp_path_factory, times_ms):
    path = tmp_path_factory.mktemp("t") / "m"
    path.write_text("".join(f"{ms}\n" for ms in times_ms))
    text = path.read_text()
    write_mahimahi(read(path), path)
    assert path.read_text() == text


@given(traces, st.floats(0.002, 0.3))
def test_resampling_keeps_the_bytes_of_every_step(trace, step_s):
    found = trace.resampled(step_s)
    assert len(found.changes) == max(1, math.ceil(trace.period_s / step_s - 1e-9))
    for _, end_s, _ in found.spans():
        assert carried(found, end_s) == pytest.approx(carried(trace, end_s), abs=1e-3)


def test_steps_are_counted_despite_rounding_positive_and_have_the_delay_at_their_start():
    trace = Trace((RateChange(0, 8e6, 0.1), RateChange(1, 8e6, 0.2), RateChange(1.75, 8e6, 0.3)), 2.5)
    assert [change.delay_s for change in trace.resampled(0.5).changes] == [0.1, 0.1, 0.2, 0.2, 0.3]
    trace = Trace((RateChange(0, 8e6),), 0.07)
    assert 0.07 / 0.01 > 7  # in binary
    assert len(trace.resampled(0.01).changes) == 7
    with pytest.raises(ValueError, match="step_s must be above 0"):
        trace.resampled(0.0)


@given(traces.filter(lambda trace: trace.changes[-1].rate_bps > 1e5))
def test_a_link_carries_what_the_trace_delivers(trace):
    link = Link(LinkProfile(), random.Random(0))
    for at_s, profile in islice(trace.schedule(LinkProfile()), 2 * len(trace.changes)):
        link.change(at_s, profile)
    size = int(trace.delivered_bytes)
    assert link.send(0.0, size) == pytest.approx(trace.period_s, abs=1e-3)
    assert link.send(link.free_at, size) == pytest.approx(2 * trace.period_s, abs=2e-3)


def test_a_schedule_takes_missing_values_from_the_base_repeats_and_leaves_out_equal_successors():
    base = LinkProfile(delay_s=0.01, jitter_s=0.001, loss=0.1)
    trace = Trace((RateChange(0, 8e6, loss=0.0), RateChange(1, 0.0, delay_s=0.5)), 1.5)
    first = LinkProfile(rate_bps=8e6, delay_s=0.01, jitter_s=0.001)
    second = LinkProfile(rate_bps=STALLED_BPS, delay_s=0.5, jitter_s=0.001, loss=0.1)
    assert list(trace.schedule(base, repeat=False)) == [(0, first), (1, second)]
    assert list(islice(trace.schedule(base), 4)) == [(0, first), (1, second), (1.5, first), (2.5, second)]
    assert list(islice(trace.schedule(base, time_scale=10), 3)) == [(0, first), (10, second), (15, first)]
    same = Trace((RateChange(0, 8e6), RateChange(1, 8e6)), 2.0)
    assert list(same.schedule(LinkProfile())) == [(0, LinkProfile(rate_bps=8e6))]  # and ends
    wrapped = Trace((RateChange(0, 8e6), RateChange(1, 9e6), RateChange(2, 8e6)), 3.0)
    assert [at_s for at_s, _ in islice(wrapped.schedule(LinkProfile()), 5)] == [0, 1, 2, 4, 5]
    with pytest.raises(ValueError, match="time_scale must be above 0"):
        wrapped.schedule(LinkProfile(), time_scale=0)
    with pytest.raises(ValueError, match=r"a change each 1e-09 s, expected 1e-06 s or more on average"):
        wrapped.schedule(LinkProfile(), time_scale=1e-9)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.csv", "", ": no rows; expected CSV with time_s and rate_bps, G-NetTrack's (UCC) with"),
        ("a.csv", "a,b\n1,2\n", ":1: 'a, b' begins no known form of trace; expected CSV with time_s and rate_bps, "),
        ("m", "# so fast\n\nfast\n", ":3: 'fast' begins no known form of trace; expected CSV with time_s"),
        ("a.csv", "time_s,rate_bps\n0,1\n1,\n", ":3: rate_bps is empty; give a number, 0 if nothing passes, or"),
        ("a.csv", "time_s,rate_bps\n0,1\n1e-9,2\n", ": a change each 1e-09 s, expected 1e-06 s or more on average"),
        ("a.csv", "time_s,rate_bps\n", ": no rows after the header"),
        (
            "a.csv",
            "time_s,rate\n0,1\n",
            ":1: unknown column 'rate', expected time_s, rate_bps, delay_s, jitter_s, loss",
        ),
        ("a.csv", "time_s,rate_bps,rate_bps\n0,1,2\n", ":1: a column appears twice"),
        ("a.csv", "time_s,rate_bps\n0,1\n1\n", ":3: 1 values, expected 2"),
        ("a.csv", "time_s,rate_bps\n0,fast\n", ":2: rate_bps: 'fast' is not a number"),
        ("a.csv", "time_s,rate_bps\n0,nan\n", ":2: rate_bps: nan is not between 0 and 1e+13"),
        ("a.csv", "time_s,rate_bps\n0,-1\n", ":2: rate_bps: -1.0 is not between"),
        ("a.csv", "time_s,rate_bps,loss\n0,1,1\n", ":2: loss: 1.0 is not between 0 and 0.999999"),
        ("a.csv", "time_s,rate_bps\n0,1\n2,1\n2,3\n", ":4: time_s: 2.0 is not above 2.0 of the row before"),
        ("m", "0\n0\n", ":2: a period of 0 ms, expected 1 to 1e+10 ms"),
        ("m", "1\n2.5\n", ":2: '2.5' is not a time in whole milliseconds"),
        ("m", "1\n-2\n", ":2: '-2' is not a time in whole milliseconds"),
        ("m", "1\n99999999999\n", ":2: a period of 99999999999 ms, expected 1 to 1e+10 ms"),
        ("m", "5\n\n4\n", ":3: 4 ms is below 5 ms of the line before"),
    ],
)
def test_an_invalid_trace_is_rejected_with_its_line(tmp_path, name, text, error):
    path = written(text, tmp_path, name)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{error}")


def test_missing_binary_and_large_files_are_rejected(tmp_path, monkeypatch):
    with pytest.raises(TraceError, match=os.strerror(errno.ENOENT)):
        read(tmp_path / "none.csv")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not a UTF-8 text file"):
        read(binary)
    monkeypatch.setattr("netem.trace.FILE_BYTES", 10)
    with pytest.raises(TraceError, match="22 bytes, expected at most 10"):
        read(written("time_s,rate_bps\n0,1e6\n", tmp_path))
    monkeypatch.setattr("netem.trace.FILE_BYTES", 22)
    assert read(written("time_s,rate_bps\n0,1e6\n", tmp_path)).period_s == 1.0


def test_what_a_format_cannot_hold_is_rejected(tmp_path, monkeypatch):
    uneven = Trace((RateChange(0, 1e6, delay_s=0.1), RateChange(1, 1e6)), 2.0)
    with pytest.raises(TraceError, match="the change at 1 s has other columns than the first"):
        write_csv(uneven, tmp_path / "a.csv")
    monkeypatch.setattr("netem.trace.FILE_BYTES", 80)  # ten packets
    with pytest.raises(TraceError, match="too many packets"):
        write_mahimahi(Trace((RateChange(0, 11 * 12_000.0),), 1.0), tmp_path / "m")
    write_mahimahi(Trace((RateChange(0, 10 * 12_000.0),), 1.0), tmp_path / "m")


def test_packaged_traces_are_small_and_made_by_the_generator(tmp_path):
    subprocess.run([sys.executable, "-m", "netem.traces.generate", tmp_path], check=True, timeout=300)
    shipped = packaged()
    assert set(shipped) == {"5g-mmwave-walking", "5g-mmwave-driving", "5g-sub6", "wifi"}
    assert sum(path.stat().st_size for path in shipped.values()) < 200_000
    for name, path in shipped.items():
        assert (tmp_path / f"{name}.csv").read_bytes() == path.read_bytes()
        trace = read(path)
        assert trace.period_s == pytest.approx(60)
        assert len(list(trace.schedule(LinkProfile(), repeat=False))) > 500
    assert len(list(tmp_path.iterdir())) == len(shipped)
