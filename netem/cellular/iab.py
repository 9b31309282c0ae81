"""Nodes, links and background traffic of HiveMind's two IAB networks.

The node names of the paper's figure 10 are illegible. The text says that six IAB nodes on 1 km x 1 km form a tree with
the sixth as donor, and that a handover from gNB 1 to gNB 2 lengthens the route by one hop. Only one assignment of
links A to E fits: 1 -A- 3 -C- 6 and 2 -B- 4 -D- 5 -E- 6; along both branches the bandwidth that Table I leaves to the
UE falls. ``docs/cellular.md`` lists all choices.
"""

from typing import Literal

import msgspec

from netem.cellular.mobility import Position, Trajectory
from netem.cellular.radio import MMWAVE, SUB6, Carrier
from netem.cellular.traffic import Background

NetworkKind = Literal["mmwave", "sub6"]
UE, CLOUD = "ue", "cloud"


class BackhaulLink(msgspec.Struct, frozen=True):
    """A link of fixed capacity between network nodes, named as in Table I."""

    name: str
    near: str
    far: str  # the end nearer to the cloud
    capacity_bps: float
    table_bps: tuple[float, float]  # the UE's bandwidth in Table I: mean, standard deviation
    background: Background  # populations are chosen to add up along the tree, the rest is calibrated (``traffic.fit``)


class Cell(msgspec.Struct, frozen=True):
    """A node to which the UE can attach, with the background UEs attached to it."""

    name: str
    site: Position
    background: Background


class IabRoute(msgspec.Struct, frozen=True):
    """Nodes from the UE to the cloud, in order, and the links between them."""

    nodes: tuple[str, ...]
    links: tuple[str, ...]


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """A network: cells, backhaul links to the cloud, the carrier of the UE's access link, and the UE's trajectory."""

    carrier: Carrier
    access: str  # name of the access link
    access_table_bps: tuple[float, float] | None = None  # its row in Table I if it has one
    cells: tuple[Cell, ...]
    backhaul: tuple[BackhaulLink, ...]
    trajectory: Trajectory

    def route(self, cell: str) -> IabRoute:
        link_from = {link.near: link for link in self.backhaul}
        nodes, links = [UE, cell], [self.access]
        while nodes[-1] != CLOUD:
            link = link_from[nodes[-1]]
            nodes.append(link.far)
            links.append(link.name)
        return IabRoute(tuple(nodes), tuple(links))

    @property
    def table_bps(self) -> dict[str, tuple[float, float]]:
        """Table I by link: mean and standard deviation of the UE's bandwidth, in bits per second."""
        rows = {link.name: link.table_bps for link in self.backhaul}
        return rows if self.access_table_bps is None else {self.access: self.access_table_bps, **rows}


LOOP = Trajectory(((280, 700), (520, 740), (700, 600), (700, 350), (500, 220), (300, 420)))


def _at_cell(population: int) -> Background:
    """Background of one cell: ``population`` UEs with the traffic of link A (all in cell 1)."""
    return Background(population, 35.7e6, 0.430)


TOPOLOGIES: dict[NetworkKind, Topology] = {
    "mmwave": Topology(
        carrier=MMWAVE,
        access="access",
        cells=(
            Cell("iab1", (200, 780), _at_cell(4)),
            Cell("iab2", (520, 850), _at_cell(4)),
            Cell("iab3", (220, 400), _at_cell(2)),
            Cell("iab4", (800, 620), _at_cell(2)),
            Cell("iab5", (800, 350), _at_cell(2)),
            Cell("iab6", (500, 120), _at_cell(2)),
        ),
        backhaul=(
            BackhaulLink("A", "iab1", "iab3", 200e6, (66.49e6, 19.47e6), Background(4, 35.7e6, 0.430)),
            BackhaulLink("B", "iab2", "iab4", 200e6, (71.89e6, 19.72e6), Background(4, 33.2e6, 0.390)),
            BackhaulLink("C", "iab3", "iab6", 200e6, (47.06e6, 8.95e6), Background(6, 25.6e6, 0.153)),
            BackhaulLink("D", "iab4", "iab5", 200e6, (54.03e6, 11.61e6), Background(6, 24.4e6, 0.205)),
            BackhaulLink("E", "iab5", "iab6", 200e6, (48.59e6, 9.41e6), Background(8, 18.9e6, 0.178)),
            BackhaulLink("F", "iab6", "mec7", 400e6, (54.05e6, 12.94e6), Background(16, 21.6e6, 0.153)),
            BackhaulLink("G", "mec7", "mec8", 200e6, (36.03e6, 8.63e6), Background(10, 16.4e6, 0.178)),
            BackhaulLink("H", "mec8", "cloud", 50e6, (18.12e6, 4.43e6), Background(4, 8.10e6, 0.321)),
        ),
        trajectory=LOOP,
    ),
    "sub6": Topology(
        carrier=SUB6,
        access="A",
        access_table_bps=(33.94e6, 8.45e6),
        cells=(Cell("gnb", (500, 500), Background(4, 4.45e6, 1.11)),),
        backhaul=(
            BackhaulLink("B", "gnb", "mec", 50e6, (33.94e6, 8.45e6), Background(4, 4.45e6, 1.11)),
            BackhaulLink("C", "mec", "cloud", 50e6, (18.78e6, 3.66e6), Background(4, 7.83e6, 0.244)),
        ),
        trajectory=LOOP,
    ),
}
