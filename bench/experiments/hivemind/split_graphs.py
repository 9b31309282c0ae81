"""Size of the graph of all splits, and the shortest path through it.

HiveMind, section IV-B: a vertex (p, m, n) is node p computing layers m to n; an edge leads to a later node that
continues with layer n + 1 (Eq. 5-6). Section IV-C replaces it by a graph with relay vertices, whose edges join only
neighbours; SCI sends the least cost of a node's vertices for each first layer.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

CostMatrix = Sequence[Sequence[float]]
IndexArray = npt.NDArray[np.signedinteger[Any]]


class UpdateSize(NamedTuple):
    """Size of a split search: edges of its graph, messages of one node in one update, and values in them."""

    edges: int
    messages: int
    values: int


def options(nodes: int, layers: int) -> int:
    """The number of splits of ``layers`` over ``nodes``, any of which may get none (section IV-B2)."""
    return comb(nodes + layers - 1, layers)


def full_size(nodes: int, layers: int) -> UpdateSize:
    """The graph of Eq. 5-6; messages as section IV-C counts them for a node: vertices times mean out-edges."""
    pairs = comb(nodes - 1, 2)  # of nodes before the last, which computes to the end or not at all
    messages = comb(layers, 2) * (layers + 1) * nodes // 4
    return UpdateSize(pairs * comb(layers + 1, 3) + (nodes - 1) * comb(layers, 2), messages, messages)


def relay_size(nodes: int, layers: int) -> UpdateSize:
    """The graph with relay vertices: (n + 1) vertices of a node end at n, (L - n + 1) of the next go on from there."""
    edges = (nodes - 2) * comb(layers + 3, 3) + comb(layers + 2, 2)
    return UpdateSize(edges, 1, comb(layers + 2, 2))  # one cost a vertex, the relays' among them


def sci_size(nodes: int, layers: int) -> UpdateSize:
    """SCI: at each boundary a node computes or relays, and it sends one cost for each."""
    return UpdateSize(nodes * layers + (nodes - 1) * (layers + 1), 1, layers + 1)


class FullGraph:
    """The graph of Eq. 5-6 for P nodes and L layers, with paths and costs that the equations omit.

    It departs from them: any node may be the first or the last to compute, and data that skips a node pays every hop.
    The edges depend on P and L alone; ``weighted`` fills in their costs.
    """

    def __init__(self, nodes: int, layers: int) -> None:
        self._nodes, self._layers = nodes, layers
        first, last = np.triu_indices(layers)  # from 0: a vertex computes layers first to last
        self._vertex = np.zeros((layers, layers), dtype=np.int32)
        self._vertex[first, last] = np.arange(len(first))
        self._per_node = len(first)
        rows, columns, charges = (np.concatenate(parts) for parts in zip(*self._edges(), strict=True))
        order = np.lexsort((columns, rows))
        self._columns, self._charges = columns[order].astype(np.int32), charges[order]
        counts = np.bincount(rows, minlength=nodes * self._per_node + 2)
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def weighted(self, layer_costs: CostMatrix, link_costs: CostMatrix) -> csr_array:
        """The graph with costs of layers [P][L] and of boundaries [P-1][L+1]."""
        done = np.pad(np.cumsum(layer_costs, axis=1), ((0, 0), (1, 0)))  # [P, L+1]
        sent = np.pad(np.cumsum(np.reshape(link_costs, (-1, self._layers + 1)), axis=0), ((1, 0), (0, 0)))  # [P, L+1]
        hops = sent[None, :] - sent[:, None]  # [P, P, L+1]: from, to, boundary
        compute = done[:, None, :] - done[:, :, None]  # [P, L+1, L+1]: node, first boundary, last boundary
        weights = np.ravel(hops[:, :, :, None] + compute[None])
        size = self._nodes * self._per_node + 2
        return csr_array((weights[self._charges], self._columns, self._starts), shape=(size, size))

    def least_cost(self, weighted: csr_array) -> float:
        """The cost of the shortest path by Dijkstra's algorithm, which also computes the path."""
        *_, start, end = range(weighted.shape[0])
        distances, _ = shortest_path(weighted, method="D", indices=start, return_predecessors=True)
        return float(distances[end])

    def _edges(self) -> Iterator[tuple[IndexArray, IndexArray, IndexArray]]:
        """(from, to, place in the table of costs) of bundles of edges."""
        *_, start, end = range(self._nodes * self._per_node + 2)
        layers, final = self._layers, self._nodes - 1
        for p, q in combinations(range(self._nodes), 2):
            for done in range(1, layers):
                last = np.arange(layers if q == final else done + 1, layers + 1)
                sources = p * self._per_node + self._vertex[:done, done - 1]
                targets = q * self._per_node + self._vertex[done, last - 1]
                pairs = np.meshgrid(sources, targets, indexing="ij")
                charges = np.broadcast_to(self._charge(p, q, done, last), pairs[0].shape)
                yield np.ravel(pairs[0]), np.ravel(pairs[1]), np.ravel(charges)
        every = np.arange(1, layers + 1)
        for p in range(self._nodes):
            begins = p * self._per_node + self._vertex[0]
            yield np.full(layers, start), begins, self._charge(0, p, 0, every)
            ends = p * self._per_node + self._vertex[:, -1]
            yield ends, np.full(layers, end), np.full(layers, self._charge(p, final, layers, every[-1:])[0])

    def _charge(self, p: int, q: int, done: int, last: IndexArray) -> IndexArray:
        """The index of the costs of going from ``p`` to ``q`` after ``done`` layers and computing up to ``last``."""
        return ((p * self._nodes + q) * (self._layers + 1) + done) * (self._layers + 1) + last
