"""Decisions of a scheme, checked before an edge server acts on them."""

from collections.abc import Iterable, Sequence

from nodes.errors import NodeError
from nodes.federated.schemes import ClientState, RoundState, Scheme


class Decisions:
    """The hooks of ``scheme`` that choose and weigh clients. They raise NodeError for what cannot be."""

    def __init__(self, scheme: Scheme, name: str) -> None:
        self.scheme, self._name = scheme, name

    def select(self, round_state: RoundState, present: Sequence[ClientState]) -> list[ClientState]:
        chosen = self._checked("select", self.scheme.select(round_state, present), present)
        return sorted(chosen, key=lambda client: client.index)

    def start(self, round_state: RoundState) -> list[ClientState]:
        return self._checked("start", self.scheme.start(round_state), round_state.of_phase("idle"))

    def due(self, round_state: RoundState) -> list[ClientState]:
        return self._checked("due", self.scheme.due(round_state), round_state.tasks)

    def weights(self, round_state: RoundState, clients: Sequence[ClientState]) -> tuple[float, ...]:
        weights = tuple(float(weight) for weight in self.scheme.weights(round_state, clients))
        if len(weights) != len(clients) or not all(0 < weight < float("inf") for weight in weights):
            raise self._error("weights", f"got {list(weights)}, expected {len(clients)} numbers above 0")
        return weights

    def stuck(self, round_state: RoundState) -> NodeError:
        """The error of a round in which nobody can go on."""
        waiting = [client.name for client in round_state.tasks]
        idle = [client.name for client in round_state.of_phase("idle")]
        return self._error("due", f"round {round_state.number} cannot go on: tasks of {waiting} wait, {idle} are idle")

    def _checked(self, hook: str, chosen: Sequence[ClientState], allowed: Iterable[ClientState]) -> list[ClientState]:
        allowed, listed = list(allowed), list(chosen)
        if len(set(listed)) != len(listed) or not set(listed) <= set(allowed):
            names = [[getattr(client, "name", client) for client in clients] for clients in (listed, allowed)]
            raise self._error(hook, f"chose {names[0]}, expected some of {names[1]}")
        return listed

    def _error(self, hook: str, text: str) -> NodeError:
        return NodeError(f"{hook} of scheme {self._name}: {text}")
