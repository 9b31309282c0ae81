"""Actions that a role returns, and the base of roles: events in, actions out.

A role holds no clock, no channel and no tensor work, so a test of it is a list of events and the actions expected.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from nodes.runtime.account import Account
from nodes.wire.messages import AnyMessage, Peer

Direction = str  # "previous", "next" or "runner"; the neighbour's name where there are several of a kind


class Send(NamedTuple):
    """Send ``message`` to the neighbour in direction ``to``."""

    to: Direction
    message: AnyMessage


@dataclass(frozen=True)
class Compute(ABC):
    """A computation by the node's worker; its reply returns to the role through ``computed``, in order.

    One subclass for each computation of a protocol, with its arguments as fields, beside the worker that runs it.
    """

    runs_forward: ClassVar[bool] = False  # whether layers run forward, which a device's timing charges for
    tail_passes: ClassVar[tuple[str, ...]] = ()  # its fields for the last layers, where these return to the UE

    @abstractmethod
    def run(self, worker: Any) -> Any:
        """Do it with ``worker``; the reply."""


@dataclass(frozen=True)
class Keep(Compute):
    """Let the worker keep the node's state, with the node's ``account``, before anything else is done; no reply."""

    account: Account = field(default_factory=Account, kw_only=True)


class Finish(NamedTuple):
    """The role is done: send what is decided, then end."""


class Connect(NamedTuple):
    """Make ``peer`` the next node in place of the present one; None: have no next node."""

    peer: Peer | None


class Wake(NamedTuple):
    """Call ``woke`` with ``why`` when the node's clock reads ``at`` seconds."""

    at: float
    why: str


Action = Send | Compute | Finish | Connect | Wake


class Role(ABC):
    """Decisions of one node, as a plain state machine. All times are seconds of the node's clock."""

    @abstractmethod
    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a message from the neighbour in direction ``sender``. Raises ProtocolError if it fits no state."""

    @abstractmethod
    def computed(self, reply: Any, now: float) -> list[Action]:
        """Take the reply of the computation that was asked for first."""

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        """Take note that node ``peer`` is the neighbour in ``direction`` from now on."""
        return []

    def lost(self, direction: Direction, now: float) -> list[Action] | None:
        """Go on without the neighbour in ``direction``, which is gone or cannot be reached; None: the role cannot."""
        return None

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        """Take note that the link from the neighbour in ``direction`` brought ``wire_bytes`` in ``wire_s``."""
        return []

    def woke(self, why: str, now: float) -> list[Action]:
        """Do what ``Wake`` was asked for."""
        return []
