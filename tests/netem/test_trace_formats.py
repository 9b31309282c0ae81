"""Trace files as people have them, row by row; both directions from one file; what the emulator makes of outages."""

import random
from pathlib import Path

import pytest

from netem.link import SEGMENT_BYTES, LinkProfile
from netem.link_queue import CHUNK_S, LinkQueue
from netem.profiles import Duplex, Traces
from netem.trace import TraceError, known_format, read
from netem.trace_schedule import least_step_s, paces, schedules

UCC = """Timestamp,Longitude,Latitude,Speed,CellID,NetworkMode,RSRP,RSRQ,SNR,CQI,RSSI,DL_bitrate,UL_bitrate,State
2019.12.14_10.16.30,-8.3,51.8,0,2,5G,-95,-13,0.0,10,-,12345,300,D
2019.12.14_10.16.31,-8.3,51.8,0,2,5G,-95,-13,0.0,10,-,20000,0,D
2019.12.14_10.16.31,-8.3,51.8,0,2,5G,-95,-13,0.0,10,-,40000,500,D
2019.12.14_10.17.31,-8.3,51.8,0,2,5G,-95,-13,0.0,10,-,0,0,I
"""
LUMOS5G = """run_num,seq_num,abstractSignalStr,latitude,nrStatus,Throughput,mobility_mode,tower_id
1,4,2,44.9,CONNECTED,500.5,walking,2
1,5,2,44.9,CONNECTED,0,walking,2
7,1,2,44.9,NOT_RESTRICTED,100,driving,2
7,3,2,44.9,NOT_RESTRICTED,120,driving,2
"""
FCC = """4,2016-09-01 00:00:17,http://example.org,192.0.2.1,500000,100000,250000,31
4,2016-09-01 01:00:20,http://example.org,192.0.2.1,500000,100000,125000,31
"""
FCC_HEADER = "unit_id,dtime,target,address,fetch_time,bytes_total,bytes_sec,objects\n"
CSV = "time_s,rate_bps\n0,1e6\n1,2e6\n"


def written(text: str, folder: Path, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_text(text, newline="")
    return path


@pytest.mark.parametrize(
    ("form", "text", "rows"),
    [
        ("ucc", UCC, [(0, 12.345e6), (1, 30e6), (61, 0)]),  # two rows of one second are averaged
        ("lumos5g", LUMOS5G, [(0, 500.5e6), (1, 0), (2, 100e6), (4, 120e6)]),  # runs follow each other
        ("fcc", FCC, [(0, 2e6), (3603, 1e6)]),
        ("fcc", FCC_HEADER + FCC, [(0, 2e6), (3603, 1e6)]),
        ("pensieve", "0.0 2.5\n1.0 1.25\n2.0 3.0\n", [(0, 2.5e6), (1, 1.25e6), (2, 3e6)]),
        ("pensieve", "# of a bus\n1452.5\t2.5\n1453.5\t0\n", [(0, 2.5e6), (1, 0)]),
        ("pensieve", "0,2.5\r\n1,3\r\n", [(0, 2.5e6), (1, 3e6)]),
        ("pensieve", "0;2,5\n0,5;3\n", [(0, 2.5e6), (0.5, 3e6)]),
        ("csv", '"time_s","rate_bps"\n0,1e6\n1,2e6\n', [(0, 1e6), (1, 2e6)]),
        ("csv", "time_s;rate_bps\n0;1000000\n0,5;2e6\n", [(0, 1e6), (0.5, 2e6)]),
        ("csv", ",time_s,rate_bps\n0,0,1e6\n1,1,2e6\n", [(0, 1e6), (1, 2e6)]),
        ("csv", CSV.replace("\n", "\r\n"), [(0, 1e6), (1, 2e6)]),
        ("csv", "# mine\n\n" + CSV, [(0, 1e6), (1, 2e6)]),
        ("csv", "time_s,rate_bps\n1486486000.25,1e6\n1486486001.5,2e6\n", [(0, 1e6), (1.25, 2e6)]),
        ("mahimahi", "# of a drive\n1\n1.0\n\n2\n", [(0, 0), (0.0009, 240e6), (0.001, 0), (0.0019, 120e6)]),
        ("mahimahi", "1700000000000\n1700000000002\n", [(0, 0), (0.0009, 12e7), (0.001, 0), (0.0029, 12e7)]),
        ("mahimahi", "1486486\n1486488\n", [(0, 0), (0.0009, 12e7), (0.001, 0), (0.0029, 12e7)]),
        ("mahimahi", "5000\n5002\n", [(0, 0), (4.9999, 12e7), (5, 0), (5.0019, 12e7)]),  # an outage at first
    ],
)
def test_formats_are_read_in_base_units_from_time_0_on(tmp_path, form, text, rows):
    for name in ("a.csv", "a.txt"):
        path = written(text, tmp_path, name)
        assert known_format(path) == form
        trace = read(path)
        assert trace == read(path, form)
        assert [change.time_s for change in trace.changes] == pytest.approx([time_s for time_s, _ in rows])
        assert [change.rate_bps for change in trace.changes] == pytest.approx([rate_bps for _, rate_bps in rows])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (UCC.replace("40000", ""), ":4: DL_bitrate is empty; give a number, 0 if nothing passes, or remove the line"),
        (UCC.replace("10.17.31", "10.16.29"), ":5: time_s: 1576318589.0 is not above 1576318591.0 of the row before"),
        (UCC.replace("2019.12.14_10.17.31", "10:17"), ":5: '10:17' is not a time like 2019.12.14_10.16.30"),
        (LUMOS5G.replace("500.5", "-"), ":2: Throughput is empty"),
        ('time_s,rate_bps\n0,"500,000"\n', ":2: rate_bps: '500,000' is not a number"),  # not 500.0
        ("0 2500000\n1 1250000\n", ":1: 2.5e+06 Mbit/s; rates of pairs without a header are in Mbit/s, not bit/s"),
        (LUMOS5G.replace("seq_num", "seq"), ":1: 'run_num, seq, abstractSignalStr"),
        (FCC.replace("\n4,", "\n5,"), ":2: unit_id 5 after 4; keep the rows of one unit"),
        (FCC.replace("250000", "-1"), ":1: rate_bps: -8.0 is not between 0 and 1e+13"),
        ("0 2.5\n1 2 3\n", ":2: 3 values, expected a time in seconds and a rate in Mbit/s"),
        ("0 2.5\n1 fast\n", ":2: rate: 'fast' is not a number"),
        ("1 2 3\n", ":1: '1, 2, 3' begins no known form of trace; expected CSV with time_s"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path, text, error):
    path = written(text, tmp_path)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{error}")


def test_a_file_of_another_format_than_asked_for_is_refused(tmp_path):
    with pytest.raises(TraceError, match=r"a.txt:1: missing column Timestamp and DL_bitrate"):
        read(written(LUMOS5G, tmp_path), "ucc")


def test_each_direction_takes_its_rate_from_one_file(tmp_path):
    path = written(UCC, tmp_path)
    assert [change.rate_bps for change in read(path, direction="uplink").changes] == [300e3, 250e3, 0]
    up, down = schedules(Duplex(trace=str(path)))
    assert (next(up)[1].rate_bps, next(down)[1].rate_bps) == (300e3, 12.345e6)


def test_what_cannot_be_followed_is_refused_or_told(tmp_path):
    path = written(CSV, tmp_path)
    with pytest.raises(TraceError, match=r"a.txt: a change each 1e-07 s, expected 1e-06 s or more on average"):
        schedules(Duplex(trace=str(path), time_scale=1e-7))
    assert least_step_s(Duplex(trace=str(path), time_scale=0.5)) == 0.5
    assert least_step_s(Duplex()) == float("inf")
    packets = str(written("1\n131\n", tmp_path, "m"))
    with pytest.raises(TraceError, match="packets leave no rate behind their last millisecond; set repeat"):
        schedules(Duplex(trace=packets, repeat=False))
    assert least_step_s(Duplex(trace=Traces(up=str(path), down=packets))) == pytest.approx(1e-4)


def test_the_emulator_lets_nothing_pass_in_an_outage_and_then_all_that_is_due_at_once(tmp_path):
    """Its queue holds what a burst of 60 kB takes, though a sender refills it 0.5 ms late."""
    times_ms = [ms for ms in range(1, 8) for _ in range(3)] + [131] * 40 + [132, 133]
    link = Duplex(trace=str(written("".join(f"{ms}\n" for ms in times_ms), tmp_path)))
    (schedule, _), (pace, _) = schedules(link), paces(link)
    assert pace == pytest.approx((len(times_ms) * 1500 * 8 / 0.133, 40 * 1500))
    queue = LinkQueue(LinkProfile(), random.Random(0))
    queue.play(schedule, pace)
    now, carried = 0.0, {}
    while now < 0.1325:
        carried[now] = sum(len(chunk.data) for chunk in queue.pop_arrived(now))
        while not queue.full:
            queue.put(now + 0.0005, bytes(SEGMENT_BYTES), None)
            queue.pop_arrived(now)
        assert queue.chunk_bytes == int(pace.mean_bps / 8 * CHUNK_S)  # neither that of a stall nor of a burst
        now = queue.wake_at
    by_7_ms = sum(size for at, size in carried.items() if at <= 0.0071)
    assert 21 * 1500 - 2 * SEGMENT_BYTES <= by_7_ms <= 21 * 1500
    assert not [at for at, size in carried.items() if size and 0.0071 < at < 0.1309]
    assert 62 * 1500 - 2 * SEGMENT_BYTES <= sum(carried.values()) <= 62 * 1500
    assert paces(Duplex(trace="wifi")) == paces(Duplex()) == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,rate_mbps\n0,1\n", ":1: unknown column 'rate_mbps', .*; convert it to rate_bps"),
        ("Time_s,Rate_bps\n0,1\n", ":1: unknown column 'Time_s', .*; convert it to time_s"),
        ("time_s,rate_bps,rsrp\n0,1,-90\n", ":1: unknown column 'rsrp', .*; remove it"),
        ('time_s,rate_bps\n0,"1,000,000"\n', ":2: rate_bps: '1,000,000' is not a number; .*without separators"),
        ("time_s;rate_bps\n0;1.000.000\n", ":2: rate_bps: '1.000.000' is not a number; .*without separators"),
        ("time_s,rate_bps\n0,1_000\n", ":2: rate_bps: '1_000' is not a number"),
        ('time_s,rate_bps\n0,1\n1,"2\n', ":3: .*quotes do not match"),
        ("time_s,rate_bps\n1576315000000,1\n1576315001000,2\n", ":2: time_s: 1576315000000 is too late for seconds"),
        ("run_num,seq_num,Throughput\n1,1,5\n2,1,6\n1,2,7\n", ":4: run_num 1 again after 2"),
    ],
)
def test_units_and_rows_that_would_be_misread(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=message):
        read(path)


def test_first_line_of_excel(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("\ufeffsep=;\r\ntime_s;rate_bps\r\n0;1000000\r\n0,5;2000000\r\n", newline="", encoding="utf-8")
    assert [(change.time_s, change.rate_bps) for change in read(path).changes] == [(0, 1e6), (0.5, 2e6)]
