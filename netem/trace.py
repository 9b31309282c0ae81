"""Link traces: reading, writing, and their schedule of link profiles.

Our CSV has a header, then one row per change, in base units: ``time_s,rate_bps`` and optionally ``delay_s,jitter_s,
loss``. Mahimahi: one line per 1,500-byte packet that can be delivered, with the millisecond at which it can; the time
of the last line is the period, after which the trace repeats. ``netem.traces.formats`` has the others that are read.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, groupby, pairwise
from pathlib import Path

import msgspec

from netem.link import LinkProfile
from netem.traces.formats import (
    KNOWN,
    MAXIMA,
    Direction,
    Format,
    Line,
    LineError,
    Row,
    format_of,
    lines_of,
    packet_times_ms,
    rows_of,
)

PACKET_BYTES = 1500  # one line of a Mahimahi trace
STALLED_BPS = 1.0  # stands for a rate of 0, which a LinkProfile does not allow
SINGLE_ROW_PERIOD_S = 1.0
FILE_BYTES = 64 << 20
BURST = 1  # tenths of a millisecond in which the packets of one millisecond pass
LATEST_S = 1e11  # of a clock: in seconds it is the year 5138, in milliseconds 1973
LEAST_STEP_S = 1e-6  # between changes on average; a link takes each in turn, however little time passes


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
        if repeat and (problem := self.too_fast(time_scale)):
            raise ValueError(problem)
        return self._steps(base, time_scale, repeat)

    def too_fast(self, time_scale: float = 1.0) -> str | None:
        """What is wrong if the trace changes too often to be followed; None if it does not."""
        step_s = self.period_s * time_scale / len(self.changes)
        if step_s >= LEAST_STEP_S:
            return None
        return f"a change each {step_s:g} s, expected {LEAST_STEP_S:g} s or more on average; are its times in seconds?"

    def _steps(self, base: LinkProfile, time_scale: float, repeat: bool) -> Iterator[tuple[float, LinkProfile]]:
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

    def capped(self, rate_bps: float) -> "Trace":
        """The trace with no rate above ``rate_bps``."""
        changes = (msgspec.structs.replace(one, rate_bps=min(one.rate_bps, rate_bps)) for one in self.changes)
        return Trace(tuple(changes), self.period_s)

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


def read(path: Path, form: Format | None = None, direction: Direction = "downlink") -> Trace:
    """Read the trace in ``path``; times count from its first row, and the last one lasts as long as the one before.

    Args:
        path: A file in one of the formats that ``docs/traces.md`` lists.
        form: Its format; None: by its first line.
        direction: Which rate to take from a file that has both.

    Raises:
        TraceError: A file that cannot be read or is no trace; names file and line.
    """
    with _errors_of(path):
        first, lines = _open(path)
        form = form or format_of(first)
        return _of_packets(lines) if form == "mahimahi" else _of_rows(path, rows_of(lines, form, direction), form)


def known_format(path: Path) -> Format:
    """The format of ``path`` by its first line. Raises TraceError."""
    with _errors_of(path):
        return format_of(_open(path)[0])


def _open(path: Path) -> tuple[Line, Iterator[Line]]:
    """The first line of ``path``, and all lines."""
    size = path.stat().st_size
    if size > FILE_BYTES:
        raise TraceError(f"{path}: {size} bytes, expected at most {FILE_BYTES}")
    lines = lines_of(path.read_text(encoding="utf-8-sig"))
    first = next(lines, None)
    if first is None:
        raise TraceError(f"{path}: no rows; {KNOWN}")
    return first, chain([first], lines)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not a UTF-8 text file") from None
    except LineError as error:
        raise TraceError(f"{path}:{error.line}: {error}") from None


def _of_rows(path: Path, rows: Iterator[tuple[int, Row]], form: Format) -> Trace:
    """A single row lasts ``SINGLE_ROW_PERIOD_S``. Rows of one time are averaged, except in our CSV."""
    changes: list[RateChange] = []
    start_s = last_s = 0.0
    together = 1
    for line, row in rows:
        time_s = row["time_s"]
        if not changes:
            start_s = time_s
            if start_s > LATEST_S:
                raise LineError(line, f"time_s: {start_s:.15g} is too late for seconds; is it in milliseconds?")
        elif time_s < last_s or (form == "csv" and time_s == last_s):
            raise LineError(line, f"time_s: {time_s} is not above {last_s} of the row before")
        at_s = round(time_s - start_s, 6) if start_s else time_s  # clocks tell microseconds at best
        for name, value in (row | {"time_s": at_s}).items():
            if not 0 <= value <= MAXIMA[name]:
                raise LineError(line, f"{name}: {value} is not between 0 and {MAXIMA[name]:g}")
        if changes and time_s == last_s:
            together += 1
            rate_bps = changes[-1].rate_bps + (row["rate_bps"] - changes[-1].rate_bps) / together
            changes[-1] = msgspec.structs.replace(changes[-1], rate_bps=rate_bps)
        else:
            together = 1
            changes.append(RateChange(**row | {"time_s": at_s}))
        last_s = time_s
    if not changes:
        raise TraceError(f"{path}: no rows after the header")
    at_s = changes[-1].time_s
    period_s = 2 * at_s - changes[-2].time_s if len(changes) > 1 else SINGLE_ROW_PERIOD_S
    trace = Trace(tuple(changes), period_s)
    if problem := trace.too_fast():
        raise TraceError(f"{path}: {problem}")
    return trace


def _of_packets(lines: Iterator[Line]) -> Trace:
    """Nothing passes between the packets' milliseconds; those of one pass together, at its end."""
    times_ms = packet_times_ms(lines)
    changes: list[RateChange] = []
    done = 0  # tenths of a millisecond
    for time_ms, group in groupby(times_ms):
        end = max(10 * time_ms, BURST)
        if end - BURST > done:
            changes.append(RateChange(done / 1e4, 0.0))
        packets = sum(1 for _ in group)
        changes.append(RateChange((end - BURST) / 1e4, 8 * PACKET_BYTES * packets * 1e4 / BURST))
        done = end
    return Trace(tuple(changes), times_ms[-1] / 1000)


def write_csv(trace: Trace, path: Path) -> None:
    """Write all of ``trace`` as CSV (see ``csv_text``). Raises TraceError."""
    try:
        path.write_text(csv_text(trace), encoding="ascii", newline="\n")
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def csv_text(trace: Trace) -> str:
    """``trace`` as CSV, of which ``read`` makes an equal trace, its last interval perhaps split in two.

    The columns are those for which the first change has a value. Raises TraceError if another change has others.
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
            raise TraceError(f"the change at {change.time_s} s has other columns than the first; give the same")
        lines.append(",".join(_short(getattr(change, name)) for name in columns))
    return "\n".join(lines) + "\n"


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
