"""HiveMind's 5G networks (section VII-A) as generators of link traces; ``network`` is the way in."""

from netem.cellular.iab import IabRoute, NetworkKind
from netem.cellular.network import Network, network
from netem.cellular.traffic import Load

__all__ = ["IabRoute", "Load", "Network", "NetworkKind", "network"]
