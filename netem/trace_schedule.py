"""Schedules of link profiles, one per direction, for a link that follows a trace."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from netem.link import LinkProfile, ProfileChange
from netem.profiles import Duplex, Traces
from netem.trace import TraceError, read
from netem.traces import packaged


def schedules(link: Duplex) -> tuple[Iterator[ProfileChange], Iterator[ProfileChange]]:
    """Schedules of profiles for the uplink and the downlink of ``link``; empty if it follows no trace.

    Times are seconds from the start of the run. Values that a trace does not have come from the link's profiles. Trace
    files are read at the call; a repeating schedule is endless and computed as it is consumed. Raises TraceError for a
    trace that is missing or invalid, or would never deliver all data.
    """
    names = _names(link)
    if names is None:
        return iter(()), iter(())
    return _schedule(names.up, link, link.up), _schedule(names.down, link, link.down)


def with_absolute_paths(link: Duplex) -> Duplex:
    """``link`` with absolute trace paths, for a process in another folder. Raises TraceError."""
    names = _names(link)
    if names is None:
        return link
    return msgspec.structs.replace(link, trace=Traces(up=str(locate(names.up)), down=str(locate(names.down))))


def locate(name: str) -> Path:
    """Path of the trace ``name``: a packaged trace's name, otherwise a file. Raises TraceError."""
    path = packaged().get(name, Path(name)).resolve()
    if not path.is_file():
        raise TraceError(f"no trace {name!r}: neither a file nor one of {', '.join(sorted(packaged()))}")
    return path


def _names(link: Duplex) -> Traces | None:
    return Traces(up=link.trace, down=link.trace) if isinstance(link.trace, str) else link.trace


def _schedule(name: str, link: Duplex, base: LinkProfile) -> Iterator[ProfileChange]:
    trace, k = read(locate(name)), link.time_dilation
    if not trace.delivered_bytes:
        raise TraceError(f"{name}: every rate is 0, so no data would ever arrive")
    if not link.repeat and not trace.changes[-1].rate_bps:
        raise TraceError(f"{name}: ends at a rate of 0, so data would never arrive; set repeat or a last rate above 0")
    schedule = trace.schedule(base.dilated(1 / k), link.time_scale, link.repeat)
    return ((at * k, profile.dilated(k)) for at, profile in schedule)
