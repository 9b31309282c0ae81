"""Generators of link traces for HiveMind's 5G networks (section VII-A); the entry point is ``network``."""

from netem.cellular.iab import IabRoute, NetworkKind
from netem.cellular.network import Network, network
from netem.cellular.traffic import Load

__all__ = ["IabRoute", "Load", "Network", "NetworkKind", "network"]
