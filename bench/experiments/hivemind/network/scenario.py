"""Machines of HiveMind's two networks, the strategies' computing nodes, and what the paper leaves open of them.

Machines as in section VII-A4: a Raspberry Pi as UE, a MacBook Air at every IAB node, a PC at every MEC server of the
core network, and a server as cloud. HiveMind and its baselines differ only in the nodes that may compute.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from bench.experiments.hivemind.network.tasks import Decide, Field, TimeVaryingLinks, Transfer
from bench.suite.parameter_types import NonNegative, Positive, PositiveShare
from netem.cellular.iab import CLOUD, UE, IabRoute
from netem.cellular.network import Network
from nodes.costs import devices
from nodes.costs.profile import Profile
from nodes.costs.workload import load_workload
from nodes.files import cached_reading
from nodes.inference.frames import frames_of_bytes, wire_bytes
from nodes.splitting.search import search
from nodes.wire.codec import wire_size
from nodes.wire.split_costs import sci

SplitStrategy = Literal["ue", "cloud", "edge", "single-split", "single-split-edge", "hivemind"]
Machine = Literal["ue", "iab", "core", "cloud"]

DEVICES: dict[Machine, devices.Hardware] = {
    "ue": devices.RASPBERRY_PI_3BP,
    "iab": devices.MACBOOK_AIR_M1,
    "core": devices.RTX_2080_PC,
    "cloud": devices.GTX_1080TI_SERVER,
}

MAY_COMPUTE: dict[SplitStrategy, Callable[[IabRoute, int], bool]] = {
    "ue": lambda route, node: node == 0,
    "cloud": lambda route, node: node == len(route.nodes) - 1,
    "edge": lambda route, node: node == nearest(route),
    "single-split": lambda route, node: node in (0, len(route.nodes) - 1),
    "single-split-edge": lambda route, node: node in (0, nearest(route)),
    "hivemind": lambda route, node: True,
}


@cache
def machine(name: str) -> Machine | None:
    """The machine of the node ``name``; None for a gNB, which only relays."""
    if name in (UE, CLOUD):
        return "ue" if name == UE else "cloud"
    return "iab" if name.startswith("iab") else "core" if name.startswith("mec") else None


def nearest(route: IabRoute) -> int:
    """The first node after the UE that can compute."""
    return next(node for node, name in enumerate(route.nodes) if node and machine(name))


class Unstated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What HiveMind leaves open of its pictures, machines and hops; the suite gives values that ``bench fit`` finds.

    ``input_bytes`` of a picture as it is sent, None as float32. Parts of their peak that the Raspberry Pi and the
    MacBooks reach. Seconds that a hop of a task (psi of Eq. 10) and of an update takes beside sending. Joules are of
    ``batch_tasks`` tasks.
    """

    input_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] | None = None
    ue_efficiency: PositiveShare = devices.RASPBERRY_PI_3BP.efficiency
    iab_efficiency: PositiveShare = devices.MACBOOK_AIR_M1.efficiency
    data_hop_s: NonNegative = 0.005
    control_hop_s: NonNegative = 0.005
    batch_tasks: Positive = 1000.0

    def machines(self) -> dict[Machine, devices.Hardware]:
        """The machines with what is given here."""
        ue = replace(DEVICES["ue"], efficiency=self.ue_efficiency)
        iab = replace(DEVICES["iab"], efficiency=self.iab_efficiency)
        return DEVICES | {"ue": ue, "iab": iab}


ASSUMED = Unstated()


@cached_reading
def profiles(workload: str, unstated: Unstated = ASSUMED) -> dict[Machine, Profile]:
    """The profile of ``workload`` on each machine."""
    work = load_workload(workload)
    return {name: devices.predict_profile(device, work) for name, device in unstated.machines().items()}


def make_field(
    net: Network,
    workload: str,
    unstated: Unstated = ASSUMED,
    faster: dict[Machine, float] | None = None,
    transfer: Transfer = "integral",
) -> Field:
    """``workload`` in ``net``, some machines ``faster`` by a factor."""
    kept = profiles(workload, unstated)
    layer_s = {}
    for name in {name for cell in net.topology.cells for name in net.topology.route(cell.name).nodes}:
        if kind := machine(name):
            layer_s[name] = kept[kind].scaled(1 / (faster or {}).get(kind, 1.0)).forward_s
    return field_on(net, layer_s, kept["ue"].boundary_bytes, unstated, transfer)


def field_on(
    net: TimeVaryingLinks,
    layer_s: Mapping[str, Sequence[float]],
    boundary_bytes: Sequence[int],
    unstated: Unstated,
    transfer: Transfer = "integral",
) -> Field:
    """Layers of ``layer_s`` seconds by node in ``net``, with the picture and the hops of ``unstated``."""
    picture_bytes, *others = boundary_bytes
    frame_bytes = wire_bytes(frames_of_bytes([unstated.input_bytes or picture_bytes, *others]))
    hops_s = unstated.data_hop_s, unstated.control_hop_s
    return Field(net, layer_s, frame_bytes, sci_bytes(len(others)), *hops_s, transfer)


def sci_bytes(layers: int) -> int:
    """The encoded size of a split-cost message."""
    return sum(wire_size(sci(0, "iab1", [0.0] * (layers + 1))))


def fastest(field: Field, strategy: SplitStrategy) -> Decide:
    """The decision for the least latency with the computing nodes of ``strategy``."""
    node_s = cache(lambda route: field.node_s(route, MAY_COMPUTE[strategy]))
    return lambda route, rates: search(node_s(route), field.link_s(rates)).splits


def update_times(duration_s: float, count: int, seed: int) -> list[float]:
    """``count`` times within ``duration_s``, one at a random place in each of ``count`` equal intervals."""
    interval_s = 0.98 * duration_s / count
    drawn = np.random.default_rng(seed).random(count)
    return [float((index + part) * interval_s) for index, part in enumerate(drawn)]
