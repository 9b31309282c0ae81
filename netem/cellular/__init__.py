"""HiveMind's 5G networks (section VII-A) as generators of link traces; ``network`` is the way in."""

from netem.cellular.iab import Kind, Route
from netem.cellular.network import Network, network
from netem.cellular.traffic import Load

__all__ = ["Kind", "Load", "Network", "Route", "network"]
