"""Actions that a role returns, and the protocols that roles implement."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from nodes.wire.messages import AnyMessage, Peer

Direction = str  # "up", "down" or "runner"; below many sources the name of one


class Send(NamedTuple):
    """Send ``message`` to the neighbour in direction ``to``."""

    to: Direction
    message: AnyMessage


class Compute(NamedTuple):
    """Do ``call`` of the node's worker with ``arguments``; its reply comes back through ``computed``."""

    call: str
    arguments: tuple[Any, ...]


class Finish(NamedTuple):
    """Nothing more will be done here."""


class Connect(NamedTuple):
    """Let ``peer`` be the neighbour downstream, instead of what was; None: have none. For nodes that roam."""

    peer: Peer | None


class Wake(NamedTuple):
    """Call ``woke`` with ``why`` when the node's clock says ``at``. For nodes that roam."""

    at: float
    why: str


Action = Send | Compute | Finish | Connect | Wake


class Role(Protocol):
    """What a node decides."""

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a message from a neighbour."""

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Take the reply of a computation that was asked for."""


@runtime_checkable
class TransferObserver(Protocol):
    """A role that wants to know what transfers take."""

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        """Take note that the link from the neighbour in ``direction`` brought so many bytes in so long."""


class RoamingRole(Role, TransferObserver, Protocol):
    """What a node decides whose neighbours come and go."""

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        """Take note that ``peer`` is the neighbour in ``direction`` from now on."""

    def lost(self, direction: Direction, now: float) -> list[Action]:
        """Take note that the neighbour in ``direction`` is gone, or could not be reached."""

    def woke(self, why: str, now: float) -> list[Action]:
        """Do what this time was waited for."""
