"""Division of a training set among clients: IID, Dirichlet or shards by class."""

import math

import numpy as np

from nodes.data.images import Indices
from nodes.errors import DataError
from nodes.spec.federation import Partition


def partition_iid(labels: Indices, clients: int, seed: int) -> list[Indices]:
    """Divide the indices of ``labels`` at random; the clients' counts differ by at most one."""
    _check_enough(len(labels), clients, 1)
    order = np.random.default_rng(seed).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, clients)]


def partition_dirichlet(labels: Indices, clients: int, alpha: float, seed: int, least: int = 1) -> list[Indices]:
    """Divide the indices of ``labels`` by class, with shares from a symmetric Dirichlet(``alpha``).

    A client with fewer than ``least`` pictures gets random ones of the client with the most. (Drawing everything again,
    as is usual, may not terminate for a small ``alpha``.)
    """
    _check_enough(len(labels), clients, least)
    if not alpha > 0 or math.isinf(alpha):
        raise DataError(f"alpha is {alpha}, expected a finite number above 0")
    generator = np.random.default_rng(seed)
    owner = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(clients, alpha))
        ends = np.rint(np.cumsum(shares) * len(members)).astype(np.int64)
        owner[members] = np.searchsorted(ends[:-1], np.arange(len(members)), side="right")
    counts = np.bincount(owner, minlength=clients)
    while counts.min() < least:
        poor, rich = counts.argmin(), counts.argmax()
        owner[generator.choice(np.flatnonzero(owner == rich))] = poor
        counts[poor], counts[rich] = counts[poor] + 1, counts[rich] - 1
    return [np.flatnonzero(owner == client) for client in range(clients)]


def partition_shards(labels: Indices, clients: int, shards: int, seed: int) -> list[Indices]:
    """Divide the indices of ``labels``, sorted by class, into equal shards, ``shards`` for each client.

    The pathological split of McMahan et al. (2017), section 3: most clients see few classes.
    """
    _check_enough(len(labels), clients * shards, 1)
    runs = np.array_split(np.argsort(labels, kind="stable"), clients * shards)
    order = np.random.default_rng(seed).permutation(len(runs))
    return [np.sort(np.concatenate([runs[run] for run in order[client::clients]])) for client in range(clients)]


def _check_enough(pictures: int, clients: int, least: int) -> None:
    if clients < 1 or clients * least > pictures:
        raise DataError(f"{pictures} pictures for {clients} clients, expected at least {max(least, 1)} each")


def partition(labels: Indices, how: Partition, clients: int, seed: int, least: int) -> list[Indices]:
    """The indices of each client's pictures. Raises DataError if a client has fewer than ``least``, a batch."""
    if clients == 1:
        return [np.arange(len(labels))]
    match how.kind:
        case "iid":
            parts = partition_iid(labels, clients, seed)
        case "dirichlet":
            parts = partition_dirichlet(labels, clients, how.alpha, seed, least)
        case "shards":
            parts = partition_shards(labels, clients, how.shards, seed)
    if min(map(len, parts)) < least:
        raise DataError(f"{len(labels)} pictures for {clients} clients, expected a batch of {least} each")
    return parts
