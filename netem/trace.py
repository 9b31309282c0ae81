"""How does a link change over time? Traces of it in two file formats, and the schedule of profiles they mean.

Two formats. CSV: a header, then a row each time something changes, in base units: ``time_s,rate_bps`` and, where
the trace knows them, ``delay_s,jitter_s,loss``. Mahimahi: a line for each 1,500-byte packet that can be
delivered, the millisecond at which it can; the last line's is the period, after which the trace starts again.
"""

import math
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import msgspec

from netem.link import LinkProfile

PACKET_BYTES = 1500  # one line of a Mahimahi trace
STALLED_BPS = 1.0  # for a rate of 0, which a LinkProfile does not have: nothing gets through to speak of
LONE_S = 1.0  # the period of a trace of one row
FILE_BYTES = 64 << 20
LARGEST = {"time_s": 1e7, "rate_bps": 1e13, "delay_s": 3600.0, "jitter_s": 3600.0, "loss": 0.999999}
NEEDED = ("time_s", "rate_bps")


class TraceError(ValueError):
    """A trace cannot be read or written; says where (file and line) and why."""


class RateChange(msgspec.Struct, frozen=True):
    """From ``time_s`` on the link has this rate; the rest is as in the base profile where it is None."""

    time_s: float
    rate_bps: float
    delay_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None

    def over(self, base: LinkProfile) -> LinkProfile:
        """``base`` with what this says."""
        return LinkProfile(
            rate_bps=self.rate_bps or STALLED_BPS,
            delay_s=base.delay_s if self.delay_s is None else self.delay_s,
            jitter_s=base.jitter_s if self.jitter_s is None else self.jitter_s,
            loss=base.loss if self.loss is None else self.loss,
        )


class Trace(msgspec.Struct, frozen=True):
    """Changes of one direction of a link, the first at time 0, their times increasing, all before ``period_s``."""

    changes: tuple[RateChange, ...]
    period_s: float

    def schedule(
        self,
        base: LinkProfile,
        time_scale: float = 1.0,
        repeat: bool = True,
        until_s: float = math.inf,
    ) -> Iterator[tuple[float, LinkProfile]]:
        """(seconds from the start, profile that holds from then on), for every change before ``until_s``.

        ``base`` gives what the trace leaves open. Times are multiplied by ``time_scale``; rates and delays stay.
        ``repeat`` starts again after the period, without end unless ``until_s`` sets one; otherwise the last
        profile stays. The first is always yielded, later ones where they differ.
        """
        if not (time_scale > 0 and math.isfinite(time_scale)):
            raise ValueError(f"time_scale must be above 0, got {time_scale}")
        steps = [(change.time_s, change.over(base)) for change in self.changes]
        changing = any(profile != steps[0][1] for _, profile in steps)
        before = None
        for time_s, profile in _repeated(steps, self.period_s) if repeat and changing else iter(steps):
            if time_s * time_scale >= until_s:
                return
            if profile != before:
                yield time_s * time_scale, profile
                before = profile

    def spans(self) -> Iterator[tuple[float, float, float]]:
        """(start, end, rate_bps) of each stretch of one period."""
        ends = [change.time_s for change in self.changes[1:]] + [self.period_s]
        for change, end_s in zip(self.changes, ends, strict=True):
            yield change.time_s, end_s, change.rate_bps

    @property
    def delivered_bytes(self) -> float:
        """How many bytes the link can carry in one period."""
        return math.fsum((end_s - start_s) * rate_bps for start_s, end_s, rate_bps in self.spans()) / 8

    def resampled(self, step_s: float) -> "Trace":
        """The rate averaged over steps of ``step_s``, so that every step carries the same bytes as before.

        The last step may be shorter. Delay, jitter and loss are those that held when the step began.
        """
        if not step_s > 0:
            raise ValueError(f"step_s must be above 0, got {step_s}")
        starts = [number * step_s for number in range(max(1, math.ceil(self.period_s / step_s - 1e-9)))]
        bits = [0.0] * len(starts)
        held = [self.changes[0]] * len(starts)
        for change, (start_s, end_s, rate_bps) in zip(self.changes, self.spans(), strict=True):
            first = min(int(start_s / step_s), len(starts) - 1)
            for index in range(first, len(starts)):
                low, high = starts[index], _end(starts, index, self.period_s)
                if low >= end_s:
                    break
                if low >= start_s:
                    held[index] = change
                bits[index] += rate_bps * max(0.0, min(high, end_s) - max(low, start_s))
        changes = [
            msgspec.structs.replace(held[i], time_s=low, rate_bps=bits[i] / (_end(starts, i, self.period_s) - low))
            for i, low in enumerate(starts)
        ]
        return Trace(tuple(changes), self.period_s)


def _end(starts: list[float], index: int, period_s: float) -> float:
    return starts[index + 1] if index + 1 < len(starts) else period_s


def _repeated(steps: list[tuple[float, LinkProfile]], period_s: float) -> Iterator[tuple[float, LinkProfile]]:
    turn = 0
    while True:
        for time_s, profile in steps:
            yield turn * period_s + time_s, profile
        turn += 1


def read(path: Path) -> Trace:
    """The trace in ``path``: CSV if its name ends in ``.csv``, else Mahimahi's. Raises TraceError."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise TraceError(f"{path}: {size} bytes; a trace has at most {FILE_BYTES}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is not a text file") from None
    return _read_csv(path, lines) if path.suffix.lower() == ".csv" else _read_mahimahi(path, lines)


def _read_csv(path: Path, lines: list[str]) -> Trace:
    """The last row lasts as long as the one before it; one row alone ``LONE_S``."""
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    for name in header:
        if name not in LARGEST:
            raise TraceError(f"{path}:1: no column {name!r}; there are {', '.join(LARGEST)}")
    if missing := [name for name in NEEDED if name not in header]:
        raise TraceError(f"{path}:1: the header must name {' and '.join(missing)}")
    if len(set(header)) < len(header):
        raise TraceError(f"{path}:1: a column is named twice")
    changes: list[RateChange] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) != len(header):
            raise TraceError(f"{path}:{number}: {len(cells)} values for {len(header)} columns")
        row = {name: _value(path, number, name, cell) for name, cell in zip(header, cells, strict=True)}
        if changes and row["time_s"] <= changes[-1].time_s:
            raise TraceError(f"{path}:{number}: time_s: {row['time_s']} does not come after {changes[-1].time_s}")
        if not changes and row["time_s"] != 0:
            raise TraceError(f"{path}:{number}: time_s: the first row must be at 0, not {row['time_s']}")
        changes.append(RateChange(**row))
    if not changes:
        raise TraceError(f"{path}: has no rows")
    last_s = changes[-1].time_s
    return Trace(tuple(changes), 2 * last_s - changes[-2].time_s if len(changes) > 1 else LONE_S)


def _value(path: Path, number: int, name: str, cell: str) -> float:
    """A cell as a finite number within what ``name`` may be."""
    try:
        value = float(cell)
    except ValueError:
        raise TraceError(f"{path}:{number}: {name}: {cell.strip()[:40]!r} is not a number") from None
    if not 0 <= value <= LARGEST[name]:
        raise TraceError(f"{path}:{number}: {name}: {value} is not between 0 and {LARGEST[name]:g}")
    return value


def _read_mahimahi(path: Path, lines: list[str]) -> Trace:
    """Packets of one millisecond are sent at an even rate since the packets before them, so that they are there.

    Those at 0 ms come with the first that follow.
    """
    times_ms: list[int] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if not (text.isascii() and text.isdigit()) or len(text) > 11 or int(text) > 1000 * LARGEST["time_s"]:
            raise TraceError(f"{path}:{number}: {text[:40]!r} is not a time in whole milliseconds")
        if times_ms and int(text) < times_ms[-1]:
            raise TraceError(f"{path}:{number}: {text} ms comes before {times_ms[-1]} ms")
        times_ms.append(int(text))
    if not times_ms or times_ms[-1] == 0:
        raise TraceError(f"{path}: needs a packet after 0 ms")
    counts = {time_ms: sum(1 for _ in group) for time_ms, group in groupby(times_ms)}
    waiting = counts.pop(0, 0)
    changes = []
    for before_ms, at_ms in pairwise([0, *counts]):
        rate_bps = 8 * PACKET_BYTES * (counts[at_ms] + waiting) * 1000 / (at_ms - before_ms)
        changes.append(RateChange(before_ms / 1000, rate_bps))
        waiting = 0
    return Trace(tuple(changes), times_ms[-1] / 1000)


def write_csv(trace: Trace, path: Path) -> None:
    """Write all of ``trace``; ``read`` gives it back, its last stretch perhaps in two rows.

    A column stands in the file if the first change has a value for it; raises TraceError where another has not.
    """
    changes = list(trace.changes)
    last_s = changes[-1].time_s
    lasts_s = last_s - changes[-2].time_s if len(changes) > 1 else LONE_S
    if not math.isclose(trace.period_s - last_s, lasts_s, rel_tol=1e-9):  # two rows of equal length say how long
        changes.append(msgspec.structs.replace(changes[-1], time_s=(last_s + trace.period_s) / 2))
    columns = [name for name in LARGEST if getattr(changes[0], name) is not None]
    lines = [",".join(columns)]
    for change in changes:
        if columns != [name for name in LARGEST if getattr(change, name) is not None]:
            raise TraceError(f"{path}: the change at {change.time_s} s has other columns than the first")
        lines.append(",".join(_short(getattr(change, name)) for name in columns))
    path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")


def _short(value: float) -> str:
    """The number exactly, whole ones without a point."""
    return str(int(value)) if value == int(value) else repr(value)


def write_mahimahi(trace: Trace, path: Path) -> None:
    """Write what ``trace`` delivers, to the packet; delay, jitter and loss have no place in this format.

    A packet stands at the first millisecond by which the link has carried all of it. The period is rounded up to
    whole milliseconds and the last packet marks its end. Raises TraceError if not one packet is delivered.
    """
    packet_bits = 8 * PACKET_BYTES
    period_ms = math.ceil(trace.period_s * 1000 - 1e-6)
    if round(trace.delivered_bytes) > PACKET_BYTES * (FILE_BYTES // 8):
        raise TraceError(f"{path}: {trace.delivered_bytes:.0f} bytes a period are too many packets for this format")
    times_ms: list[int] = []
    bits = 0.0  # carried by the start of the stretch
    for start_s, end_s, rate_bps in trace.spans():
        after = bits + rate_bps * (end_s - start_s)
        while (len(times_ms) + 1) * packet_bits <= after * (1 + 1e-12) + 1e-3:
            at_s = start_s + ((len(times_ms) + 1) * packet_bits - bits) / rate_bps
            times_ms.append(min(max(math.ceil(at_s * 1000 - 1e-6), 0), period_ms))
        bits = after
    if not times_ms:
        raise TraceError(f"{path}: less than a packet of {PACKET_BYTES} bytes in {trace.period_s} s")
    times_ms[-1] = period_ms
    path.write_text("".join(f"{time_ms}\n" for time_ms in times_ms), encoding="ascii")
