"""Rows of trace files in the formats that people have, in base units; ``netem.trace.read`` makes a trace of them."""

import csv
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from typing import Literal, NamedTuple

Format = Literal["csv", "mahimahi", "ucc", "lumos5g", "pensieve", "fcc"]
Direction = Literal["uplink", "downlink"]
Row = dict[str, float]  # by column of a RateChange

MAXIMA = {"time_s": 1e7, "rate_bps": 1e13, "delay_s": 3600.0, "jitter_s": 3600.0, "loss": 0.999999}
REQUIRED = ("time_s", "rate_bps")
KNOWN = (
    "expected CSV with time_s and rate_bps, G-NetTrack's (UCC) with Timestamp and DL_bitrate or UL_bitrate, Lumos5G's "
    "with run_num, seq_num and Throughput, FCC rows with dtime and bytes_sec, pairs of seconds and Mbit/s (Pensieve), "
    "or a line per packet with its millisecond (Mahimahi)"
)
UCC_BITRATE: dict[Direction, str] = {"downlink": "DL_bitrate", "uplink": "UL_bitrate"}  # kbit/s
INDEX_COLUMNS = ("", "index", "Unnamed: 0")  # the first column of a table written with its row numbers
FCC_COLUMNS = ("unit_id", "dtime", "target", "address", "fetch_time", "bytes_total", "bytes_sec")  # of raw rows
FCC_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
EXCEL_MARK = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
THOUSANDS = re.compile(r"[0-9]{1,3}([.,'\s][0-9]{3})+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf(inity)?)", re.IGNORECASE)
MOST_MBPS = 1e5  # of pairs without a header, in which it must be Mbit/s
EPOCH_MS = 60_000  # a first packet after this time, and after longer than all others take, is counted from elsewhere


class LineError(ValueError):
    """A line that is not of the file's format."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class Line(NamedTuple):
    """Cells of a line of the file, counted from 1."""

    number: int
    cells: list[str]


def lines_of(text: str) -> Iterator[Line]:
    """The lines of ``text`` that are neither empty nor comments, divided by what divides the first of them.

    Semicolons, else commas or tabs, else spaces; between semicolons a comma is a decimal point. A first line such as
    Excel's ``sep=;`` says what divides.
    """
    mark: str | None = None
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if mark is None and (said := EXCEL_MARK.fullmatch(line)):
            mark = said[1]
        elif line and not line.startswith("#"):
            if mark is None:
                mark = next((mark for mark in ";,\t" if mark in line), " ")
            cells = line.split() if mark == " " else _divided(number, line, mark)
            cells = [cell.strip().strip('"') for cell in cells]
            yield Line(number, [cell.replace(",", ".") for cell in cells] if mark == ";" else cells)


def _divided(number: int, line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error:
        raise LineError(number, f"{line[:40]!r}: its quotes do not match") from None


def format_of(first: Line) -> Format:
    """The format of a file by its first line. Raises LineError for an unknown one."""
    names = set(first.cells)
    if {name.lower().partition("_")[0] for name in first.cells} >= {"time", "rate"} or names & set(REQUIRED):
        return "csv"
    if "Timestamp" in names and names & set(UCC_BITRATE.values()):
        return "ucc"
    if {"run_num", "seq_num", "Throughput"} <= names:
        return "lumos5g"
    if {"dtime", "bytes_sec"} <= names or _is_raw_fcc(first):
        return "fcc"
    if len(first.cells) <= 2 and all(map(_is_number, first.cells)):
        return "mahimahi" if len(first.cells) == 1 else "pensieve"
    raise LineError(first.number, f"{', '.join(first.cells)[:80]!r} begins no known form of trace; {KNOWN}")


def rows_of(lines: Iterator[Line], form: Format, direction: Direction) -> Iterator[tuple[int, Row]]:
    """(line number, row) of each line in ``form``, any but Mahimahi's; times may begin anywhere. Raises LineError."""
    match form:
        case "ucc":
            return _ucc(lines, UCC_BITRATE[direction])
        case "lumos5g":
            return _lumos5g(lines)
        case "fcc":
            return _fcc(lines)
        case "pensieve":
            return _pensieve(lines)
        case _:
            return _csv(lines)


def _csv(lines: Iterator[Line]) -> Iterator[tuple[int, Row]]:
    header = next(lines)
    start = int(header.cells[0] in INDEX_COLUMNS)
    columns = header.cells[start:]
    for name in columns:
        if name not in MAXIMA:
            meant = next((known for known in MAXIMA if name.partition("_")[0].lower() == known.partition("_")[0]), "")
            way_out = f"; convert it to {meant}" if meant else "; remove it"
            raise LineError(header.number, f"unknown column {name!r}, expected {', '.join(MAXIMA)}{way_out}")
    if missing := [name for name in REQUIRED if name not in columns]:
        raise LineError(header.number, f"missing column {' and '.join(missing)}")
    if len(set(columns)) < len(columns):
        raise LineError(header.number, "a column appears twice")
    for line in lines:
        cells = line.cells[start:]
        if len(cells) != len(columns):
            raise LineError(line.number, f"{len(cells)} values, expected {len(columns)}")
        yield line.number, {name: _number(line, name, cell) for name, cell in zip(columns, cells, strict=True)}


def _ucc(lines: Iterator[Line], bitrate: str) -> Iterator[tuple[int, Row]]:
    """G-NetTrack's, as in UCC's 4G and 5G data sets: kbit/s at a local time."""
    for line, (time, rate) in _columns(lines, "Timestamp", bitrate):
        time_s = _time_s(line, time, "%Y.%m.%d_%H.%M.%S")
        yield line.number, {"time_s": time_s, "rate_bps": 1e3 * _number(line, bitrate, rate)}


def _lumos5g(lines: Iterator[Line]) -> Iterator[tuple[int, Row]]:
    """Mbit/s in each second of a run; runs follow each other."""
    run, offset_s, time_s = None, 0.0, -1.0
    runs: set[str] = set()
    for line, (run_num, seq_num, rate) in _columns(lines, "run_num", "seq_num", "Throughput"):
        second = _number(line, "seq_num", seq_num)
        if run_num != run:
            if run_num in runs:
                raise LineError(line.number, f"run_num {run_num} again after {run}; keep the rows of a run together")
            runs.add(run_num)
            run, offset_s = run_num, time_s + 1 - second
        time_s = offset_s + second
        yield line.number, {"time_s": time_s, "rate_bps": 1e6 * _number(line, "Throughput", rate)}


def _fcc(lines: Iterator[Line]) -> Iterator[tuple[int, Row]]:
    """Raw rows of the FCC's Measuring Broadband America, with or without their header: bytes a second at a time."""
    first = next(lines)
    header = [Line(0, list(FCC_COLUMNS))] if _is_raw_fcc(first) else []
    unit = None
    for line, (unit_id, time, rate) in _columns(chain(header, [first], lines), "unit_id", "dtime", "bytes_sec"):
        if unit_id != (unit := unit or unit_id):
            raise LineError(line.number, f"unit_id {unit_id} after {unit}; keep the rows of one unit")
        time_s = _time_s(line, time, "%Y-%m-%d %H:%M:%S")
        yield line.number, {"time_s": time_s, "rate_bps": 8 * _number(line, "bytes_sec", rate)}


def _pensieve(lines: Iterator[Line]) -> Iterator[tuple[int, Row]]:
    """A time in seconds and the rate from then on in Mbit/s, as for Pensieve and Puffer."""
    for line in lines:
        if len(line.cells) != 2:
            raise LineError(line.number, f"{len(line.cells)} values, expected a time in seconds and a rate in Mbit/s")
        time_s, rate = (_number(line, name, cell) for name, cell in zip(("time", "rate"), line.cells, strict=True))
        if rate > MOST_MBPS:
            raise LineError(line.number, f"{rate:g} Mbit/s; rates of pairs without a header are in Mbit/s, not bit/s")
        yield line.number, {"time_s": time_s, "rate_bps": 1e6 * rate}


def packet_times_ms(lines: Iterator[Line]) -> list[int]:
    """Milliseconds of Mahimahi's packets, in order. Those of a clock are counted from the first packet, at 1 ms."""
    times_ms: list[int] = []
    number = 0
    for number, cells in lines:
        text = " ".join(cells)
        if not re.fullmatch(r"[0-9]{1,14}(\.0*)?", text):
            raise LineError(number, f"{text[:40]!r} is not a time in whole milliseconds")
        time_ms = int(text.partition(".")[0])
        if times_ms and time_ms < times_ms[-1]:
            raise LineError(number, f"{time_ms} ms is below {times_ms[-1]} ms of the line before")
        times_ms.append(time_ms)
    first_ms, last_ms = times_ms[0], times_ms[-1]
    if first_ms < last_ms and first_ms > max(EPOCH_MS, last_ms - first_ms):
        times_ms = [time_ms - first_ms + 1 for time_ms in times_ms]
    if not 0 < times_ms[-1] <= 1000 * MAXIMA["time_s"]:
        raise LineError(number, f"a period of {times_ms[-1]} ms, expected 1 to {1000 * MAXIMA['time_s']:g} ms")
    return times_ms


def _columns(lines: Iterator[Line], *names: str) -> Iterator[tuple[Line, list[str]]]:
    """The cells of the columns ``names`` in each line behind the header."""
    header = next(lines)
    if missing := [name for name in names if name not in header.cells]:
        raise LineError(header.number, f"missing column {' and '.join(missing)}")
    places = [header.cells.index(name) for name in names]
    for line in lines:
        if len(line.cells) <= max(places):
            raise LineError(line.number, f"{len(line.cells)} values, expected {len(header.cells)}")
        yield line, [line.cells[place] for place in places]


def _number(line: Line, name: str, cell: str) -> float:
    if cell in {"", "-"}:
        raise LineError(line.number, f"{name} is empty; give a number, 0 if nothing passes, or remove the line")
    if not NUMBER.fullmatch(cell):
        way_out = "; write it without separators of thousands" if THOUSANDS.fullmatch(cell) else ""
        raise LineError(line.number, f"{name}: {cell[:40]!r} is not a number{way_out}")
    return float(cell)


def _time_s(line: Line, cell: str, form: str) -> float:
    try:
        return (datetime.strptime(cell, form) - datetime(1970, 1, 1)).total_seconds()
    except ValueError:
        example = datetime(2019, 12, 14, 10, 16, 30).strftime(form)
        raise LineError(line.number, f"{cell[:40]!r} is not a time like {example}") from None


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


def _is_raw_fcc(line: Line) -> bool:
    return len(line.cells) >= len(FCC_COLUMNS) and FCC_TIME.fullmatch(line.cells[1]) is not None
