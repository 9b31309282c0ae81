"""Which backend shapes a link, and the command that starts a shaped process."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from bench.live.processes import HostPort
from bench.live.shaping import Emulated, LinkEnds, Shaping
from netem.profiles import Duplex
from reports.record import ShapingBackend as Backend


def shaped(
    nodes: Sequence[str], links: Sequence[Duplex], backend: Backend, seed: int, ends: Sequence[LinkEnds] | None = None
) -> Shaping:
    """What joins ``nodes`` by ``links`` as ``backend`` does it. Raises ValueError.

    ``ends`` are the numbers of each link's nodes, the upstream one first; None: of a chain, from the first on.
    """
    if ends is None:
        ends = list(pairwise(range(len(nodes))))
    if backend in ("kernel", "tbf+emulated"):
        from bench.live.kernel_shaping import Kernel  # noqa: PLC0415  (pyroute2)

        return Kernel(nodes, links, seed, "netem" if backend == "kernel" else "tbf", ends)
    return Emulated(nodes, [] if backend == "none" else links, seed, ends)


async def downstream(
    shaping: Shaping, nodes: Sequence[str], addresses: Mapping[str, HostPort]
) -> list[HostPort | None]:
    """Where each of the chain of ``nodes`` finds the next; ``addresses`` say where all listen, each for itself."""
    return [*[await shaping.door(hop, addresses[far]) for hop, far in enumerate(nodes[1:])], None]
