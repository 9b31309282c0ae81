"""How are links measured as a live run has them? A chain of ends in place of its nodes, joined by its own backend."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from bench.live.backends import downstream, shaped
from netem.calibrate import Probe, open_probe, timestamp_server
from netem.kernel.namespace import connect_from, listen_in
from netem.profiles import Duplex
from reports.record import ShapingBackend as Backend


@asynccontextmanager
async def probes(links: Sequence[Duplex], backend: Backend, seed: int = 0) -> AsyncIterator[list[Probe]]:
    """A probe of each of ``links``, of its way up, as ``backend`` makes them. Each is one connection."""
    names = [f"end{number}" for number in range(len(links) + 1)]
    async with shaped(names, links, backend, seed) as shaping, AsyncExitStack() as stack:
        homes = [shaping.namespaces.get(name) for name in names]
        addresses = {
            name: await stack.enter_async_context(timestamp_server(listen_in(home)))
            for name, home in zip(names, homes, strict=True)
        }
        doors = await downstream(shaping, names, addresses)
        yield [
            await stack.enter_async_context(open_probe(connect_from(address, home)))
            for address, home in zip(doors, homes, strict=True)
            if address
        ]
