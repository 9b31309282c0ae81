"""Built-in schemes, and schemes by name.

Split Learning in 6G Edge Networks, sections II and IV. Vanilla split learning (SL) lets clients train in turn and
hands their part on; split federated learning (SFL) lets them train at once and averages their parts each round, with a
server part for each client (v1) or one that takes their tasks one after the other (v2); parallel split learning (PSL)
takes one step on the tasks of all clients and averages no client part; EPSL is PSL with some of the gradients averaged
before they are back-propagated; federated learning (FL) has no server part.
"""

import inspect
import math
from collections.abc import Sequence
from statistics import fmean
from typing import get_args

from nodes.errors import one_line
from nodes.federated.schemes.base import ClientParts, ClientState, RoundState, Scheme, ServerParts, Statistics, Through
from nodes.imports import did_you_mean, load_callable, registered, registered_names
from nodes.spec.federation import Federation, SchemeSpec
from nodes.user_code import contained


class Sl(Scheme):
    """Vanilla split learning: clients train in turn and hand their part on."""

    server_parts = "one"
    client_parts = "handed on"

    def start(self, round: RoundState) -> Sequence[ClientState]:
        return [] if round.of_phase("training") else round.of_phase("idle")[:1]


class SflV1(Scheme):
    """Split federated learning with a server part for each client."""

    server_parts = "copies"
    client_parts = "aggregated"


class SflV2(Scheme):
    """Split federated learning with one server part, which takes tasks in passes over the clients."""

    server_parts = "one"
    client_parts = "aggregated"

    def due(self, round: RoundState) -> Sequence[ClientState]:
        chosen: list[ClientState] = []
        passes = {client: client.served for client in round.clients if client.served < round.steps}
        while passes and (first := min(passes, key=lambda client: (passes[client], client.index))) in round.tasks:
            if first in chosen:
                break
            chosen.append(first)
            passes[first] += 1
            if passes[first] == round.steps:
                del passes[first]
        return chosen


class Psl(Scheme):
    """Parallel split learning: one server step on the joint batch of all clients, whose parts are kept.

    Args:
        share: Share of a batch that a client sends, rounded down. With 1/M for M clients the server's backward pass
            costs as much as that of EPSL with averages at all positions, which has to be better than this.
    """

    def __init__(self, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share {share}: expected a share above 0, up to 1")
        self._share = share

    def batch_size(self, batch_size: int) -> int:
        return max(1, math.floor(round(self._share * batch_size, 9)))


class PslAveraged(Scheme):
    """Parallel split learning with averaged client parts."""

    client_parts = "aggregated"


class Epsl(Scheme):
    """Efficient parallel split learning.

    Args:
        phi: Share of the batch's positions, from the first on, whose last-layer gradients are averaged over clients.
        through: The activations that the mean gradients meet, which the article leaves open; see ``Scheme``.
        broadcast: With "each", whether what returns to the clients is averaged, too.
        statistics: With "averaged", what batch norm uses in the extra pass.
    """

    def __init__(
        self,
        phi: float = 0.0,
        through: Through = "averaged",
        broadcast: bool = False,
        statistics: Statistics = "running",
    ) -> None:
        if not 0 <= phi <= 1:
            raise ValueError(f"phi {phi}: expected a share from 0 to 1")
        for name, value, kind in (("through", through, Through), ("statistics", statistics, Statistics)):
            if value not in get_args(kind):
                raise ValueError(f"{name} {value}: expected one of {', '.join(get_args(kind))}")
        if broadcast and through != "each":
            raise ValueError(f"broadcast: only used with through each, and this is {through}")
        if statistics != "running" and through != "averaged":
            raise ValueError(f"statistics: only used with through averaged, and this is {through}")
        self._phi, self.through, self.broadcast, self.statistics = phi, through, broadcast, statistics

    def averaged_positions(self, batch_size: int) -> int:
        return math.ceil(round(self._phi * batch_size, 9))  # of what was meant: 0.07 * 100 is 7.000000000000001


class AsyncPsl(Scheme):
    """Parallel split learning in which clients do not wait for each other.

    The server takes a step on whatever tasks wait when it is free. A round is as many client steps as in other schemes,
    whichever clients take them. Of k clients in a step, a client with n images weighs n / (k m) by its data, where m is
    the mean of the clients that are here: all at once weigh as in synchronous PSL. (The paper names staleness and the
    under-representation of slow clients as open, and no rule for either; these rules are ours.)

    Args:
        staleness: Steps by which a client may be ahead of the slowest and still be served; None for no bound.
        staleness_exponent: A client's step weighs (1 + s)^-staleness_exponent after s joint steps without it.
    """

    waits = False

    def __init__(self, staleness: int | None = None, staleness_exponent: float = 0.5) -> None:
        if staleness is not None and staleness < 0:
            raise ValueError(f"staleness {staleness}: expected steps, from 0 on, or none for no bound")
        if not staleness_exponent >= 0:
            raise ValueError(f"staleness_exponent {staleness_exponent}: expected a number from 0 on")
        self._staleness, self._exponent = staleness, staleness_exponent

    def due(self, round: RoundState) -> Sequence[ClientState]:
        slowest = min((client.total for client in round.clients), default=0)
        bound = math.inf if self._staleness is None else slowest + self._staleness
        ready = [client for client in round.tasks if client.total <= bound]
        return sorted(ready, key=lambda client: client.index)

    def weights(self, round: RoundState, clients: Sequence[ClientState]) -> Sequence[float]:
        share = fmean(client.samples for client in clients) / fmean(client.samples for client in round.clients)
        scales = [share * (1 + round.staleness(client)) ** -self._exponent for client in clients]
        return [weight * scale for weight, scale in zip(super().weights(round, clients), scales, strict=True)]


class Fl(Scheme):
    """Federated learning (FedAvg): clients have the whole network."""

    server_parts = "none"
    client_parts = "aggregated"


SCHEMES: dict[str, type[Scheme]] = {  # short names; any other scheme is named module:callable
    "sl": Sl,
    "sflv1": SflV1,
    "sflv2": SflV2,
    "psl": Psl,
    "psl-averaged": PslAveraged,
    "epsl": Epsl,
    "psl-async": AsyncPsl,
    "fl": Fl,
}


def build_scheme(spec: SchemeSpec) -> Scheme:
    """The scheme that ``spec`` names. Raises ValueError."""
    path = spec.name if ":" in spec.name else registered("schemes", spec.name)
    if spec.name not in SCHEMES and path is None:
        names = [*SCHEMES, *registered_names("schemes")]
        known = f"there are {', '.join(names)} and module:callable"
        raise ValueError(f"scheme: no scheme {spec.name!r}{did_you_mean(spec.name, names)}; {known}")
    try:
        make = SCHEMES.get(spec.name) or load_callable(path or spec.name)
        inspect.signature(make).bind(**spec.options)  # its error names the option
        with contained():
            scheme = make(**spec.options)
    except Exception as error:  # a user's class may fail in any way
        raise ValueError(f"scheme {spec.name} cannot be made: {one_line(error)}") from error
    if not isinstance(scheme, Scheme):
        raise ValueError(f"scheme {spec.name} made a {type(scheme).__name__}, not a nodes.federated.schemes.Scheme")
    for attribute, kind in (
        ("server_parts", ServerParts),
        ("client_parts", ClientParts),
        ("statistics", Statistics),
        ("through", Through),
    ):
        if (value := getattr(scheme, attribute)) not in get_args(kind):
            raise ValueError(f"scheme {spec.name}: {attribute} is {value!r}, expected one of {get_args(kind)}")
    if not scheme.waits and (scheme.client_parts != "kept" or scheme.server_parts == "none"):
        raise ValueError(
            f"scheme {spec.name}: clients that do not wait for each other keep their parts, below a server's"
        )
    return scheme


def scheme_of(federation: Federation) -> Scheme:
    """The scheme of ``federation``. Raises ValueError where the two do not fit."""
    scheme = build_scheme(federation.scheme)
    if not scheme.waits and (federation.edges > 1 or federation.moves):
        raise ValueError(
            f"edges: scheme {federation.scheme.name} ends no round for all clients, so edge servers cannot be averaged "
            "and clients cannot move; give one edge"
        )
    if not scheme.waits and federation.participants is not None:
        raise ValueError(f"participants: scheme {federation.scheme.name} begins no round that clients are drawn for")
    if not scheme.waits and (federation.round_deadline_s is not None or federation.least_clients > 1):
        name = "least_clients" if federation.round_deadline_s is None else "round_deadline_s"
        raise ValueError(f"{name}: scheme {federation.scheme.name} ends no round for all clients, so none is late")
    if federation.job.tail is not None:
        _check_tail(scheme, federation)
    if scheme.client_parts == "kept" and federation.batch_norm == "local":
        raise ValueError(f"batch_norm: scheme {federation.scheme.name} shares no clients' parts; all are local")
    return scheme


def _check_tail(scheme: Scheme, federation: Federation) -> None:
    """Raise ValueError for a scheme that is not defined where the last layers stay with the clients."""
    name = federation.scheme.name
    if scheme.server_parts == "none":
        raise ValueError(f"tail: scheme {name} leaves all layers with the clients, and the labels")
    if not scheme.waits:
        raise ValueError(
            f"tail: a step of the server waits for its clients' last layers, and clients of scheme {name} for nobody"
        )
    if scheme.through != "cut" and scheme.averaged_positions(federation.job.batch_size):
        raise ValueError(
            f"tail: scheme {name} averages last-layer gradients, which the clients have; only through cut averages "
            "what the server has"
        )
