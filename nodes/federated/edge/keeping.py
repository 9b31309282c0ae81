"""What an edge server's role keeps at the end of a round's training, and goes on from."""

from collections.abc import Mapping
from typing import Any

import msgspec

from nodes.federated.edge.shared_part import SharedPart
from nodes.federated.edge.tasks import RoundStats
from nodes.federated.keeping import RoundKeeping
from nodes.federated.schemes import ClientState
from nodes.runtime.actions import Action
from nodes.spec.federation import Federation
from nodes.training.keeping.state import plain_attributes, set_attributes
from nodes.wire.messages import ClientModel

OF_ROUND = ("number", "steps", "updates")
OF_CLIENT = ("total", "seen", "completed", "tested")


class EdgeKeeping:
    """Keeps the role of edge server ``edge``; ``kept`` is what it goes on from, if it does."""

    def __init__(self, federation: Federation, edge: int, part: SharedPart, kept: Any) -> None:
        self._keeping = RoundKeeping(federation, federation.edge_names[edge])
        self._scheme, self._round, self._part, self._kept = part.scheme, part.round_state, part, kept
        if kept is not None:
            for name in OF_ROUND:
                setattr(self._round, name, kept["round"][name])
            part.value = kept["part"] and ClientModel(**kept["part"])
            set_attributes(self._scheme, kept["scheme"])

    def after(self, stats: RoundStats, members: Mapping[str, ClientState], all_trained: bool) -> list[Action]:
        """What to keep once a round is aggregated, before anything is sent."""
        part, number = self._part.value, self._round.number
        unchanged = self._scheme.client_parts == "aggregated" and (part is None or part.round != number)
        if unchanged or not self._keeping.ends_period(number):  # a part that clients have already is not sent again
            return []
        clients = {
            client.index: _fields(client, OF_CLIENT)
            | {"holds": client.holds is not None and client.holds is part}
            | {"moment": self._keeping.last_moment(client.completed, client.tested)}
            for client in members.values()
        }
        progress = {
            "round": _fields(self._round, OF_ROUND),
            "stats": msgspec.structs.asdict(stats),
            "part": part and {"round": part.round, "tensors": dict(part.tensors)},
            "clients": clients,
            "all_trained": all_trained,
            "scheme": plain_attributes(self._scheme),
        }
        return self._keeping.after(number, progress)

    def resume(self, members: Mapping[str, ClientState]) -> tuple[RoundStats, bool] | None:
        """The counts of the round, and whether all ``members`` have trained in it; None unless the server goes on."""
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        for client in members.values():
            earlier = kept["clients"][client.index]
            for name in OF_CLIENT:
                setattr(client, name, earlier[name])
            client.holds = self._part.value if earlier["holds"] else None
        return RoundStats(**kept["stats"]), kept["all_trained"]


def _fields(holder: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(holder, name) for name in names}
