"""How are links measured as a live run has them? A chain of ends in place of its nodes, joined by its own backend."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from bench.processes import Address
from bench.shaping import shaped
from netem.calibrate import Probe, answering, probing
from netem.namespace import inside
from netem.profiles import Duplex
from reports.record import Shaping as Backend


@asynccontextmanager
async def probes(links: Sequence[Duplex], backend: Backend, seed: int = 0) -> AsyncIterator[list[Probe]]:
    """A probe of each of ``links``, of its way up, as ``backend`` makes them. Each is one connection."""
    names = [f"end{number}" for number in range(len(links) + 1)]
    async with shaped(names, links, backend, seed) as shaping, AsyncExitStack() as stack:
        homes = [shaping.namespaces.get(name) for name in names]
        addresses = {
            name: await stack.enter_async_context(answering(_listener(home)))
            for name, home in zip(names, homes, strict=True)
        }
        downstream = await shaping.join(addresses)
        yield [
            await stack.enter_async_context(probing(_connected(address, home)))
            for address, home in zip(downstream, homes, strict=True)
            if address
        ]


def _listener(home: str | None) -> socket.socket:
    """A socket that listens in the network namespace ``home``, on all that is there; in this one on the loopback."""
    with inside(home):
        return socket.create_server(("0.0.0.0" if home else "127.0.0.1", 0))


def _connected(address: Address, home: str | None) -> socket.socket:
    with inside(home):
        return socket.create_connection(address)
