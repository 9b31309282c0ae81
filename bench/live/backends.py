"""Choice of the backend that shapes the links of a run."""

from collections.abc import Sequence
from itertools import pairwise

from bench.live.shaping import LinkEnds, Shaping
from netem.profiles import Duplex
from reports.record import ShapingBackend as Backend


def shaped(
    nodes: Sequence[str], links: Sequence[Duplex], backend: Backend, seed: int, ends: Sequence[LinkEnds] | None = None
) -> Shaping:
    """The links between ``nodes`` as ``backend`` shapes them. Raises ValueError.

    ``ends`` are the numbers of each link's nodes, the upstream one first; None: of a chain, from the first on.
    """
    if ends is None:
        ends = list(pairwise(range(len(nodes))))
    if backend in ("kernel", "tbf+emulated"):
        from bench.live.kernel_shaping import Kernel  # noqa: PLC0415  (pyroute2)

        return Kernel(nodes, links, seed, "netem" if backend == "kernel" else "tbf", ends)
    return Shaping(nodes, [] if backend == "none" else links, seed, ends)
