"""Link traces: reading and writing in two file formats, and their schedule of link profiles.

CSV: a header, then one row per change, in base units: ``time_s,rate_bps`` and optionally ``delay_s,jitter_s,loss``.
Mahimahi: one line per 1,500-byte packet that can be delivered, with the millisecond at which it can; the time of the
last line is the period, after which the trace repeats.
"""

import math
from collections.abc import Iterator
from itertools import count, groupby, pairwise
from pathlib import Path

import msgspec

from netem.link import LinkProfile

PACKET_BYTES = 1500  # one line of a Mahimahi trace
STALLED_BPS = 1.0  # stands for a rate of 0, which a LinkProfile does not allow
SINGLE_ROW_PERIOD_S = 1.0
FILE_BYTES = 64 << 20
MAXIMA = {"time_s": 1e7, "rate_bps": 1e13, "delay_s": 3600.0, "jitter_s": 3600.0, "loss": 0.999999}
REQUIRED = ("time_s", "rate_bps")


class TraceError(ValueError):
    """A trace cannot be read or written; names the file, the line and the reason."""


class RateChange(msgspec.Struct, frozen=True):
    """State of a link from ``time_s`` on; None keeps the value of the base profile (see ``LinkProfile``)."""

    time_s: float  # from the start of the trace
    rate_bps: float  # 0 while the link is stalled
    delay_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None

    def over(self, base: LinkProfile) -> LinkProfile:
        return LinkProfile(
            rate_bps=self.rate_bps or STALLED_BPS,
            delay_s=base.delay_s if self.delay_s is None else self.delay_s,
            jitter_s=base.jitter_s if self.jitter_s is None else self.jitter_s,
            loss=base.loss if self.loss is None else self.loss,
        )


class Trace(msgspec.Struct, frozen=True):
    """Changes of one link direction over one period of ``period_s`` seconds, after which it ends or repeats.

    ``changes`` are in order of time, no two at the same time; the first is at 0, all are before ``period_s``.
    """

    changes: tuple[RateChange, ...]
    period_s: float

    def schedule(
        self, base: LinkProfile, time_scale: float = 1.0, repeat: bool = True
    ) -> Iterator[tuple[float, LinkProfile]]:
        """Yield (start in seconds, profile) in order of time; an equal successor is left out. Raises ValueError.

        Args:
            base: Profile whose values apply where the trace has none.
            time_scale: Factor on the times of the trace, positive and finite; rates and delays are unchanged.
            repeat: Start again after each period, without end; otherwise the last profile remains.
        """
        if not (time_scale > 0 and math.isfinite(time_scale)):
            raise ValueError(f"time_scale must be above 0 and finite, got {time_scale}")
        steps = [(change.time_s, change.over(base)) for change in self.changes]
        changing = any(profile != steps[0][1] for _, profile in steps)
        before = None
        for period in count() if repeat and changing else (0,):
            for time_s, profile in steps:
                if profile != before:
                    yield (period * self.period_s + time_s) * time_scale, profile
                    before = profile

    def spans(self) -> Iterator[tuple[float, float, float]]:
        """Yield (start_s, end_s, rate_bps) of each interval of constant rate in one period."""
        ends = [change.time_s for change in self.changes[1:]] + [self.period_s]
        for change, end_s in zip(self.changes, ends, strict=True):
            yield change.time_s, end_s, change.rate_bps

    @property
    def delivered_bytes(self) -> float:
        """Number of bytes that the link can carry in one period."""
        return math.fsum((end_s - start_s) * rate_bps for start_s, end_s, rate_bps in self.spans()) / 8

    def resampled(self, step_s: float) -> "Trace":
        """Average the rate over steps of ``step_s`` seconds; every step carries the same bytes as before.

        The last step may be shorter. Delay, jitter and loss are those at the start of the step. Raises ValueError.
        """
        if not step_s > 0:
            raise ValueError(f"step_s must be above 0, got {step_s}")
        steps = max(1, math.ceil(self.period_s / step_s - 1e-9))
        edges = [*(number * step_s for number in range(steps)), self.period_s]
        bits = [0.0] * steps
        in_force = [self.changes[0]] * steps
        for change, (start_s, end_s, rate_bps) in zip(self.changes, self.spans(), strict=True):
            for index in range(min(int(start_s / step_s), steps - 1), steps):
                low, high = edges[index], edges[index + 1]
                if low >= end_s:
                    break
                if low >= start_s:
                    in_force[index] = change
                bits[index] += rate_bps * max(0.0, min(high, end_s) - max(low, start_s))
        changes = [
            msgspec.structs.replace(in_force[index], time_s=low, rate_bps=bits[index] / (high - low))
            for index, (low, high) in enumerate(pairwise(edges))
        ]
        return Trace(tuple(changes), self.period_s)


def read(path: Path) -> Trace:
    """Read the trace in ``path``: CSV if the name ends in ``.csv``, otherwise Mahimahi. Raises TraceError."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise TraceError(f"{path}: {size} bytes, expected at most {FILE_BYTES}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not a UTF-8 text file") from None
    return _read_csv(path, lines) if path.suffix.lower() == ".csv" else _read_mahimahi(path, lines)


def _read_csv(path: Path, lines: list[str]) -> Trace:
    """The last row lasts as long as the row before it; a single row lasts ``SINGLE_ROW_PERIOD_S``."""
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    for name in header:
        if name not in MAXIMA:
            raise TraceError(f"{path}:1: unknown column {name!r}, expected {', '.join(MAXIMA)}")
    if missing := [name for name in REQUIRED if name not in header]:
        raise TraceError(f"{path}:1: missing column {' and '.join(missing)}")
    if len(set(header)) < len(header):
        raise TraceError(f"{path}:1: a column appears twice")
    changes: list[RateChange] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where, cells = f"{path}:{number}", line.split(",")
        if len(cells) != len(header):
            raise TraceError(f"{where}: {len(cells)} values, expected {len(header)}")
        row = {name: _value(where, name, cell) for name, cell in zip(header, cells, strict=True)}
        if changes and row["time_s"] <= changes[-1].time_s:
            raise TraceError(f"{where}: time_s: {row['time_s']} is not above {changes[-1].time_s} of the row before")
        if not changes and row["time_s"] != 0:
            raise TraceError(f"{where}: time_s: {row['time_s']}, expected 0 in the first row")
        changes.append(RateChange(**row))
    if not changes:
        raise TraceError(f"{path}: no rows after the header")
    last_s = changes[-1].time_s
    return Trace(tuple(changes), 2 * last_s - changes[-2].time_s if len(changes) > 1 else SINGLE_ROW_PERIOD_S)


def _value(where: str, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise TraceError(f"{where}: {name}: {cell.strip()[:40]!r} is not a number") from None
    if not 0 <= value <= MAXIMA[name]:
        raise TraceError(f"{where}: {name}: {value} is not between 0 and {MAXIMA[name]:g}")
    return value


def _read_mahimahi(path: Path, lines: list[str]) -> Trace:
    """Spread a millisecond's packets evenly over the time since the previous ones; those at 0 ms join the next."""
    times_ms: list[int] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if not (text.isascii() and text.isdigit()) or len(text) > 11 or int(text) > 1000 * MAXIMA["time_s"]:
            raise TraceError(f"{path}:{number}: {text[:40]!r} is not a time in whole milliseconds up to 1e10")
        if times_ms and int(text) < times_ms[-1]:
            raise TraceError(f"{path}:{number}: {text} ms is below {times_ms[-1]} ms of the line before")
        times_ms.append(int(text))
    if not times_ms or times_ms[-1] == 0:
        raise TraceError(f"{path}: no packet after 0 ms, so the trace has no period")
    counts = {time_ms: sum(1 for _ in group) for time_ms, group in groupby(times_ms)}
    carried_over = counts.pop(0, 0)
    changes = []
    for before_ms, at_ms in pairwise([0, *counts]):
        rate_bps = 8 * PACKET_BYTES * (counts[at_ms] + carried_over) * 1000 / (at_ms - before_ms)
        changes.append(RateChange(before_ms / 1000, rate_bps))
        carried_over = 0
    return Trace(tuple(changes), times_ms[-1] / 1000)


def write_csv(trace: Trace, path: Path) -> None:
    """Write all of ``trace`` as CSV; ``read`` returns an equal trace, its last interval perhaps split in two.

    The file has the columns for which the first change has a value; its name should end in ``.csv``, which ``read``
    looks at. Raises TraceError if another change has values for other columns.
    """
    changes = list(trace.changes)
    last_s = changes[-1].time_s
    row_s = last_s - changes[-2].time_s if len(changes) > 1 else SINGLE_ROW_PERIOD_S
    if not math.isclose(trace.period_s - last_s, row_s, rel_tol=1e-9):  # two equal rows encode its length
        changes.append(msgspec.structs.replace(changes[-1], time_s=(last_s + trace.period_s) / 2))
    columns = [name for name in MAXIMA if getattr(changes[0], name) is not None]
    lines = [",".join(columns)]
    for change in changes:
        if columns != [name for name in MAXIMA if getattr(change, name) is not None]:
            raise TraceError(f"{path}: the change at {change.time_s} s has other columns than the first; give the same")
        lines.append(",".join(_short(getattr(change, name)) for name in columns))
    path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")


def _short(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def write_mahimahi(trace: Trace, path: Path) -> None:
    """Write the packets that ``trace`` delivers in Mahimahi's format, which has no delay, jitter or loss.

    A packet gets the first millisecond by which the link has carried all of it. The period is rounded up to whole
    milliseconds; the last packet marks its end. Raises TraceError for less than one packet, or a file above
    ``FILE_BYTES``.
    """
    packet_bits = 8 * PACKET_BYTES
    period_ms = math.ceil(trace.period_s * 1000 - 1e-6)
    if round(trace.delivered_bytes) > PACKET_BYTES * (FILE_BYTES // 8):
        raise TraceError(f"{path}: {trace.delivered_bytes:.0f} bytes per period are too many packets; write CSV")
    times_ms: list[int] = []
    bits = 0.0  # carried before the interval
    for start_s, end_s, rate_bps in trace.spans():
        after = bits + rate_bps * (end_s - start_s)
        while (len(times_ms) + 1) * packet_bits <= after * (1 + 1e-12) + 1e-3:
            at_s = start_s + ((len(times_ms) + 1) * packet_bits - bits) / rate_bps
            times_ms.append(min(max(math.ceil(at_s * 1000 - 1e-6), 0), period_ms))
        bits = after
    if not times_ms:
        raise TraceError(f"{path}: less than one packet of {PACKET_BYTES} bytes in {trace.period_s} s; write CSV")
    times_ms[-1] = period_ms
    path.write_text("".join(f"{time_ms}\n" for time_ms in times_ms), encoding="ascii")
