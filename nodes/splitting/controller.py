"""Control of a node's split: when it changes, and when an update is sent upstream. Pure: time and costs are given.

HiveMind, section IV-C: a node computes its split-cost information (SCI) and, for each boundary, the layer to stop at
(``search``). Nothing depends on nodes upstream: a new neighbour there needs one message.

The paper leaves open when an update is worth a message and what keeps a split from flapping. Here one is sent if some
cost changed by more than ``min_change`` or the last message is ``repeat_s`` old; a split is kept, and its cost sent,
while it costs at most ``1 + hysteresis`` times the best one plus ``switch_s``. Over P nodes these bounds may add up.
"""

from collections.abc import Sequence
from math import inf, isnan

from nodes.spec.policy import Policy
from nodes.splitting.search import NodeSplit, sink_costs, split_node


class SplitControl:
    def __init__(self, layer_s: Sequence[float], policy: Policy) -> None:
        self.policy = policy
        self.layers = len(layer_s)
        self.updates = 0
        self.switches = 0  # tasks whose stop differs from that of the previous task at the same boundary
        self._layer_s = layer_s
        self._downstream = sink_costs(self.layers)
        self._link_s: Sequence[float] = [0.0] * (self.layers + 1)
        self._wait_s = 0.0
        self._sent: list[float] | None = None
        self._sent_at = 0.0
        self._used: dict[int, int] = {}
        self._split = split_node(layer_s, self._link_s, self._downstream)

    @property
    def cost_s(self) -> list[float]:
        """The least cost [L+1] from each boundary on, incoming link included: this node's SCI."""
        return self._split.cost

    @property
    def stops(self) -> list[int]:
        """Layers done when a task leaves, by the boundary [L+1] at which it arrives."""
        return self._split.stop

    def downstream_s(self, done: int) -> float:
        """Cost of a task handed on with ``done`` layers, from the downstream neighbour's SCI."""
        return self._downstream[done]

    def take_stop(self, done: int) -> int:
        """Layers done when the task leaves that has arrived with ``done`` of them; counts switches."""
        stop = self._split.stop[done]
        self.switches += self._used.get(done, stop) != stop
        self._used[done] = stop
        return stop

    def set_downstream(self, downstream: Sequence[float] | None) -> None:
        """Set the SCI [L+1] of the downstream neighbour; None: there is none. Raises ValueError."""
        costs = sink_costs(self.layers) if downstream is None else list(downstream)
        if len(costs) != self.layers + 1 or any(isnan(cost) or cost < 0 for cost in costs):
            raise ValueError(f"split costs: expected {self.layers + 1} numbers of at least 0, got {costs!r:.80}")
        self._downstream = costs

    def keep_stop(self, stop: int) -> None:
        """Make ``stop`` the present split of all boundaries up to it, which hysteresis then keeps."""
        self._split = NodeSplit(self._split.cost, [max(done, stop) for done in range(self.layers + 1)])

    def update(self, link_s: Sequence[float], wait_s: float = 0.0) -> None:
        """Search the split again, with ``link_s`` [L+1] as the incoming link's costs and ``wait_s`` of own queue."""
        self.updates += 1
        self._link_s, self._wait_s = link_s, wait_s
        best = split_node(self._layer_s, link_s, self._downstream, wait_s)
        self._split = self._settle(best) if self.policy.hysteresis or self.policy.switch_s else best

    def next_update(self, now: float) -> list[float] | None:
        """The SCI if it is due to be sent, else None; it then counts as sent at ``now``."""
        if not self._is_due(now):
            return None
        self._sent, self._sent_at = self.cost_s, now
        return self.cost_s

    def forget_sent(self) -> None:
        """Forget the last update sent: the upstream neighbour is new."""
        self._sent = None

    def _is_due(self, now: float) -> bool:
        sent, change, repeat_s = self._sent, self.policy.min_change, self.policy.repeat_s
        if sent is None or change is None or (repeat_s is not None and now - self._sent_at >= repeat_s):
            return True
        pairs = [(cost, before) for cost, before in zip(self.cost_s, sent, strict=True) if cost != before]
        return any(before == inf or abs(cost - before) > change * before for cost, before in pairs)

    def _settle(self, best: NodeSplit) -> NodeSplit:
        """``best``, with the present stop at each boundary where it is within the hysteresis."""
        cost, stops = list(best.cost), list(best.stop)
        for i, stop in enumerate(self._split.stop):
            wait_s = self._wait_s if stop > i else 0.0
            kept = self._link_s[i] + wait_s + sum(self._layer_s[i:stop]) + self._downstream[stop]
            if stop != stops[i] and kept <= cost[i] * (1 + self.policy.hysteresis) + self.policy.switch_s:
                cost[i], stops[i] = kept, stop
        return NodeSplit(cost, stops)
