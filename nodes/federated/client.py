"""What does a client of a federation decide? It trains when its server says so, and may drop out and come back.

The server begins a round and decides what follows; a client goes through its steps, gives its part where the scheme
shares it, and tests when asked to.
"""

from collections.abc import Sequence

import torch

from nodes.errors import PeerLostError, ProtocolError
from nodes.runtime.actions import Action, Compute, Connect, Direction, Finish, Send, Wake
from nodes.spec.schemes import Scheme
from nodes.wire.messages import Activation, AnyMessage, Assign, Gradient, Peer, Result, Round, Route, Shutdown, Weights

BACK = "back"


class Client:
    """A client with ``samples`` training pictures; ``mean_samples`` are those of the mean client.

    It begins with the first of the edge servers ``servers``, of which there is one at least.
    """

    def __init__(  # noqa: PLR0917 (all that a client is)
        self,
        rules: Scheme,
        servers: Sequence[Peer],
        samples: int,
        mean_samples: float,
        test_batches: int,
        window: int,
        absences: Sequence[tuple[int, float]] = (),
        begun: int = 0,
    ) -> None:
        """``absences`` are (training steps begun, seconds away); ``begun`` steps were taken before."""
        self.begun = begun
        self._rules, self._edge = rules, servers[0]
        self._servers = {server.name: server for server in servers}
        self._current = False  # it has been with its server since the clients' part was shared last
        self._about = {"samples": float(samples), "mean_samples": mean_samples}
        self._samples, self._test_batches, self._window = samples, test_batches, window
        self._absences = sorted(absences)
        self._away = False  # until its server says something
        self._since = 0  # from which round on it belongs to its server, by the last one's word
        self._round, self._left = 0, 0
        self._scores: dict[str, float] = {}
        self._sent, self._scored = 0, 0  # test batches
        self._right: torch.Tensor | None = None  # by class
        self._tested: torch.Tensor | None = None

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        """Say who comes."""
        self._left = 0
        about = self._about | ({"current": 1.0} if self._current else {})
        return [Send("down", Result(assignment=self._since, step=self.begun, metrics=about))]

    def lost(self, direction: Direction, now: float) -> list[Action]:
        """Raise PeerLostError: a server that is over says so, to whoever comes as well."""
        raise PeerLostError(self._edge.name, f"{self._edge.name} is gone")

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        """Links are not measured here."""
        return []

    def woke(self, why: str, now: float) -> list[Action]:
        """Come back."""
        return [Connect(self._edge)]

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take what the server says."""
        self._away &= sender != "down"
        match sender, message:
            case "runner", Assign():
                return [Connect(self._edge)]
            case "down", Weights() | Gradient() | Result():
                self._current |= isinstance(message, Weights)
                call = {Weights: "take", Gradient: "backward", Result: "score"}[type(message)]
                return [Compute(call, (message,))]
            case "down", Round(steps=0):
                return self._test(message.assignment)
            case "down", Round():
                self._current = True
                self._round, self._left, self._scores = message.assignment, message.steps, {}
                return self._train(now)
            case "down", Route(nodes=(Peer(name=name), *_), assignment=since) if name in self._servers:
                self._away, self._edge, self._since = True, self._servers[name], since
                return [Connect(self._edge)]
            case "down" | "runner", Shutdown():
                return [Finish()]
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Go on after a batch was prepared, trained or scored, or a part was given or taken."""
        match reply:
            case _ if self._away:
                return []
            case Activation():
                return [Send("down", reply)]
            case Gradient():
                return self._trained(reply, now)
            case Result():
                return self._tested_one(reply)
            case Weights(samples=0):
                return []  # taken
            case Weights():
                return [Send("down", reply)]
        raise ProtocolError(f"unexpected {type(reply).__name__} from a computation")

    def _train(self, now: float) -> list[Action]:
        """Begin the next step, or drop out."""
        if self._absences and self.begun >= self._absences[0][0]:
            _, for_s = self._absences.pop(0)
            self._away, self._current, self._since = True, False, 0
            return [Connect(None), Wake(now + for_s, BACK)]
        self.begun += 1
        return [Compute("train", (self._round, self.begun - 1))]

    def _trained(self, gradient: Gradient, now: float) -> list[Action]:
        if not self._left:
            return []  # of a round that this client dropped out of
        for name in ("loss", "correct", "count"):
            self._scores[name] = self._scores.get(name, 0.0) + gradient.metrics.get(name, 0.0)
        self._left -= 1
        if self._left:
            return self._train(now)
        done = Result(assignment=self._round, step=self.begun, metrics=self._scores)
        if self._rules.clients == "keep":
            return [Send("down", done)]
        return [Send("down", done), Compute("give", (self._round,))]

    def _test(self, number: int) -> list[Action]:
        """Fill the window with test batches. A step under way, if training ended for all, is this client's last."""
        self._left = min(self._left, 1)
        self._round, self._sent, self._scored, self._right, self._tested = number, 0, 0, None, None
        return self._fill()

    def _fill(self) -> list[Action]:
        free = min(self._scored + self._window, self._test_batches) - self._sent
        numbers = range(self._sent, self._sent + free)
        self._sent += free
        return [Compute("test", (self._round, batch)) for batch in numbers]

    def _tested_one(self, result: Result) -> list[Action]:
        right, tested = result.tensors["right"], result.tensors["tested"]
        self._right = right if self._right is None else self._right + right
        self._tested = tested if self._tested is None else self._tested + tested
        self._scored += 1
        if self._scored < self._test_batches:
            return self._fill()
        tensors = {"right": self._right, "tested": self._tested}
        return [Send("down", Result(assignment=self._round, step=self.begun, tensors=tensors))]
