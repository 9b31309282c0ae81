"""Deadline of a round at an edge server: who is late, what happens to them, and when too few are left.

The training of a round has ``round_deadline_s``, and so have its tests. Late are the clients that the server waits for:
neither complete, nor with a task at the server, nor still to begin. What they did in the round counts for nothing, and
they take part again from the round after their first word. If the others are not complete either, as where all take
joint steps or train in turn, they go on with a deadline of the same length.
"""

from collections.abc import Iterable, Sequence

from nodes.errors import NodeError
from nodes.federated.schemes import ClientState, RoundState
from nodes.runtime.actions import Action, Wake
from nodes.spec.federation import Federation

DEADLINE = "deadline"


class Deadline:
    """The deadline of the present round, and the clients that were late and have not been heard of since."""

    def __init__(self, federation: Federation, round_state: RoundState) -> None:
        self.late: set[str] = set()
        self._limit_s, self._least = federation.round_deadline_s, federation.least_clients
        self._round = round_state
        self._armed = 0  # deadlines so far: only the last one counts

    def arm(self, now: float) -> list[Action]:
        """Begin to wait, for a phase or for clients that were not late."""
        if self._limit_s is None:
            return []
        self._armed += 1
        return [Wake(now + self._limit_s, f"{DEADLINE} {self._armed}")]

    def has_come(self, why: str) -> bool:
        """Whether ``why``, for which the server wakes, is the present deadline."""
        return why == f"{DEADLINE} {self._armed}"

    def strike(self, served: Iterable[ClientState]) -> list[ClientState]:
        """The clients that are late for their training; the server computes for those ``served`` at present.

        Raises NodeError if fewer than ``least_clients`` are left.
        """
        kept = {*self._round.of_phase("complete"), *self._round.of_phase("idle")}
        kept |= {*self._round.tasks, *served}
        late = [client for client in self._round.clients if client not in kept]
        if late:
            names = ", ".join(client.name for client in late)
            self._check(len(kept), f"within {self._limit_s:g} s, late were {names}")
        self.late |= {client.name for client in late}
        return late

    def check_complete(self, complete: Sequence[ClientState]) -> None:
        """Raise NodeError if a round ends with too few; one that nobody took part in is passed by."""
        if complete:
            self._check(len(complete), "the others are gone")

    def _check(self, count: int, why: str) -> None:
        if count < self._least:
            raise NodeError(
                f"round {self._round.number}: {count} clients have trained ({why}), least_clients is {self._least}"
            )

    def selectable(self, present: list[ClientState]) -> list[ClientState]:
        """Those of ``present`` that a round begins with: without the late ones, unless no other is there."""
        return [client for client in present if client.name not in self.late] or present
