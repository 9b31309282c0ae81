"""Whose tasks does an edge server compute now? By the scheme and by what waits, never by who was faster."""

from collections.abc import Collection, Mapping

from nodes.algorithms.parallel import Scheme
from nodes.tally import Member


def due(rules: Scheme, steps: int, members: Mapping[str, Member], waiting: Collection[str]) -> list[str]:
    """The clients of ``members`` whose tasks, of those ``waiting``, are computed now, in this order.

    A joint step waits for all that have steps left of the round's ``steps``; a part that takes one task after the
    other does so in passes over the clients; copies, and a client alone, wait for nobody.
    """
    active = {name: one for name, one in members.items() if one.served < steps}
    if rules.server == "joint":
        return list(active) if active and active.keys() == set(waiting) else []
    if rules.order == "in turn" or rules.server == "copies":
        return list(waiting)
    chosen: list[str] = []
    passes = {name: (one.served, one.index) for name, one in active.items()}
    while passes and (first := min(passes, key=passes.__getitem__)) in set(waiting) - set(chosen):
        chosen.append(first)
        served, index = passes.pop(first)
        if served + 1 < steps:
            passes[first] = (served + 1, index)
    return chosen
