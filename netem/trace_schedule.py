"""Schedules of link profiles, one per direction, for a link that follows a trace."""

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from netem.link import LinkProfile, ProfileChange
from netem.link_queue import QUEUE_S, Pace
from netem.profiles import Duplex, Traces
from netem.trace import Trace, TraceError, known_format, read
from netem.traces import packaged
from netem.traces.formats import Direction


def schedules(link: Duplex) -> tuple[Iterator[ProfileChange], Iterator[ProfileChange]]:
    """Schedules of profiles for the uplink and the downlink of ``link``; empty if it follows no trace.

    Times are seconds from the start of the run. Values that a trace does not have come from the link's profiles. Trace
    files are read at the call; a repeating schedule is endless and computed as it is consumed. Raises TraceError for a
    trace that is missing or invalid, or would never deliver all data.
    """
    names = _names(link)
    if names is None:
        return iter(()), iter(())
    return _schedule(names.up, link, "uplink", link.up), _schedule(names.down, link, "downlink", link.down)


def least_step_s(link: Duplex) -> float:
    """Shortest time between two changes of the traces of ``link``; infinite without any. Raises TraceError."""
    traces = [trace for trace in _traces(link) if len(trace.changes) > 1]
    steps_s = [end_s - start_s for trace in traces for start_s, end_s, _ in trace.spans()]
    return min(steps_s, default=math.inf) * link.time_scale


def stalls(link: Duplex) -> bool:
    """Whether a trace of ``link`` has a rate of 0 at times. Raises TraceError."""
    return any(not change.rate_bps for trace in _traces(link) for change in trace.changes)


def with_absolute_paths(link: Duplex) -> Duplex:
    """``link`` with absolute trace paths, for a process in another folder. Raises TraceError."""
    names = _names(link)
    if names is None:
        return link
    return msgspec.structs.replace(link, trace=Traces(up=str(locate(names.up)), down=str(locate(names.down))))


def files_of(link: Duplex) -> list[str]:
    """The traces of ``link`` that are no packaged ones but files."""
    names = _names(link)
    return [] if names is None else [name for name in dict.fromkeys((names.up, names.down)) if name not in packaged()]


def locate(name: str) -> Path:
    """Path of the trace ``name``: a packaged trace's name, otherwise a file. Raises TraceError."""
    path = packaged().get(name, Path(name)).resolve()
    if not path.is_file():
        raise TraceError(f"no trace {name!r}: neither a file nor one of {', '.join(sorted(packaged()))}")
    return path


def _names(link: Duplex) -> Traces | None:
    return Traces(up=link.trace, down=link.trace) if isinstance(link.trace, str) else link.trace


def paces(link: Duplex) -> tuple[Pace | None, Pace | None]:
    """Paces of the uplink's and the downlink's trace; None for a trace without stalls. Raises TraceError."""
    up, down = (_pace(trace, link) for trace in _traces(link) or (None, None))
    return up, down


def _traces(link: Duplex) -> tuple[Trace, ...]:
    """The traces of the uplink and the downlink; empty if ``link`` follows none."""
    names = _names(link)
    return () if names is None else (_read(names.up, "uplink"), _read(names.down, "downlink"))


def _pace(trace: Trace | None, link: Duplex) -> Pace | None:
    if trace is None or all(change.rate_bps for change in trace.changes):
        return None
    short = [(end_s - start_s) * rate_bps for start_s, end_s, rate_bps in trace.spans() if end_s - start_s < QUEUE_S]
    mean_bps = 8 * trace.delivered_bytes / trace.period_s
    return Pace(mean_bps / link.time_dilation, max(short, default=0.0) * link.time_scale / 8)


def _read(name: str, direction: Direction) -> Trace:
    return read(locate(name), direction=direction)


def _schedule(name: str, link: Duplex, direction: Direction, base: LinkProfile) -> Iterator[ProfileChange]:
    trace, k = _read(name, direction), link.time_dilation
    if not trace.delivered_bytes:
        raise TraceError(f"{name}: every rate is 0, so no data would ever arrive")
    if not link.repeat and not trace.changes[-1].rate_bps:
        raise TraceError(f"{name}: ends at a rate of 0, so data would never arrive; set repeat or a last rate above 0")
    if not link.repeat and known_format(locate(name)) == "mahimahi":
        raise TraceError(f"{name}: packets leave no rate behind their last millisecond; set repeat")
    try:
        schedule = trace.schedule(base.dilated(1 / k), link.time_scale, link.repeat)
    except ValueError as error:
        raise TraceError(f"{name}: {error}") from None
    return ((at * k, profile.dilated(k)) for at, profile in schedule)
