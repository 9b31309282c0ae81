"""What does a node below the UE decide? It takes tasks on downstream, their gradients and results upstream.

A MEC server and the cloud are the same hop: any may hold layers or none, and the model may end at any.
"""

from nodes.errors import ProtocolError
from nodes.model.layer_range import LayerRange
from nodes.runtime.actions import Action, Compute, Direction, Finish, Send
from nodes.wire.messages import Activation, AnyMessage, Assign, Gradient, Result, Shutdown


class Relay:
    """A node at ``place`` with a neighbour upstream, and one downstream unless it is the chain's end."""

    def __init__(self, place: LayerRange, end: bool) -> None:
        self._place = place
        self._end = end

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Relay what is not for this node, compute what is. Raises ProtocolError for what fits neither."""
        match sender, message:
            case "up", Activation():
                return [Send("down", message)] if self._place.relays else [Compute("forward", (message,))]
            case "down", Gradient():
                return [Send("up", message)] if self._place.relays else [Compute("backward", (message,))]
            case "down", Result():
                return [Send("up", message)]
            case "up", Shutdown():
                return [Finish()] if self._end else [Send("down", message), Finish()]
            case "runner", Assign():
                return []
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Pass on what came of a computation."""
        return [Send("down" if isinstance(reply, Activation) else "up", reply)]
