"""Machines of HiveMind's two networks, the strategies' computing nodes, and calibrated constants.

Machines as in section VII-A4: a Raspberry Pi as UE, a MacBook Air at every IAB node, a PC at every MEC server of the
core network, and a server as cloud. HiveMind and its baselines differ only in the nodes that may compute.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np

from bench.experiments.hivemind.network.tasks import Decide, Field
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

# Overhead of a message per hop, calibrated on the 27 ms of an update (section IV-C3). It also stands for psi of Eq. 10,
# which the paper does not state.
HOP_S = 0.00482

MAY_COMPUTE: dict[SplitStrategy, Callable[[IabRoute, int], bool]] = {
    "ue": lambda route, node: node == 0,
    "cloud": lambda route, node: node == len(route.nodes) - 1,
    "edge": lambda route, node: node == nearest(route),
    "single-split": lambda route, node: node in (0, len(route.nodes) - 1),
    "single-split-edge": lambda route, node: node in (0, nearest(route)),
    "hivemind": lambda route, node: True,
}


def machine(name: str) -> Machine | None:
    """The machine of the node ``name``; None for a gNB, which only relays."""
    if name in (UE, CLOUD):
        return "ue" if name == UE else "cloud"
    return "iab" if name.startswith("iab") else "core" if name.startswith("mec") else None


def nearest(route: IabRoute) -> int:
    """The first node after the UE that can compute."""
    return next(node for node, name in enumerate(route.nodes) if node and machine(name))


@cached_reading
def profiles(workload: str) -> dict[Machine, Profile]:
    """The profile of ``workload`` on each machine."""
    return {name: devices.predict_profile(device, load_workload(workload)) for name, device in DEVICES.items()}


def make_field(
    net: Network, workload: str, faster: dict[Machine, float] | None = None, input_bytes: int | None = None
) -> Field:
    """``workload`` in ``net``, some machines ``faster`` by a factor; ``input_bytes`` replaces its picture's size."""
    kept = profiles(workload)
    layer_s = {}
    for name in {name for cell in net.topology.cells for name in net.topology.route(cell.name).nodes}:
        if kind := machine(name):
            layer_s[name] = kept[kind].scaled(1 / (faster or {}).get(kind, 1.0)).forward_s
    picture_bytes, *others = kept["ue"].boundary_bytes
    frame_bytes = wire_bytes(frames_of_bytes([input_bytes or picture_bytes, *others]))
    return Field(net, layer_s, frame_bytes, sci_bytes(len(kept["ue"].layers)), HOP_S)


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
