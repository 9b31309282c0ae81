"""What does a link that follows a trace do, and when? Two schedules of profiles, one for each direction."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from netem.link import Planned
from netem.profiles import Duplex, Traces
from netem.trace import TraceError, read
from netem.traces import packaged


def schedules(link: Duplex) -> tuple[Iterator[Planned], Iterator[Planned]]:
    """(seconds from the start, profile) of the way up and of the way down; none where ``link`` follows no trace.

    What a trace leaves open is the link's own. Traces are read now, schedules without end as they are asked for.
    Raises TraceError.
    """
    names = _names(link)
    if names is None:
        return iter(()), iter(())
    one, other = (_schedule(name, link, up) for name, up in ((names.up, True), (names.down, False)))
    return one, other


def located(link: Duplex) -> Duplex:
    """``link`` with its traces' absolute paths, for a process in another folder. Raises TraceError."""
    names = _names(link)
    if names is None:
        return link
    return msgspec.structs.replace(link, trace=Traces(up=str(locate(names.up)), down=str(locate(names.down))))


def locate(name: str) -> Path:
    """The file of the trace ``name``: a packaged one's name, else a path. Raises TraceError."""
    path = packaged().get(name, Path(name)).resolve()
    if not path.is_file():
        raise TraceError(f"no trace {name!r}: neither a file nor one of {', '.join(sorted(packaged()))}")
    return path


def _names(link: Duplex) -> Traces | None:
    return Traces(up=link.trace, down=link.trace) if isinstance(link.trace, str) else link.trace


def _schedule(name: str, link: Duplex, up: bool) -> Iterator[Planned]:
    trace, k = read(locate(name)), link.time_dilation
    if not trace.delivered_bytes:
        raise TraceError(f"{name}: every rate is 0, so nothing would ever arrive")
    if not link.repeat and not trace.changes[-1].rate_bps:
        raise TraceError(f"{name}: ends at a rate of 0 and is not to repeat, so what is left then would never arrive")
    own = (link.up if up else link.down).dilated(1 / k)
    return ((at * k, profile.dilated(k)) for at, profile in trace.schedule(own, link.time_scale, link.repeat))
