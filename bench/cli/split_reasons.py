"""``bench split --why``: the next best splits, what would change the choice, and the cost of each split point."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from bench.cli.split import SplitPlan, plan_costs, read_plan, search_plan
from bench.suite.document import InputError
from nodes.splitting.alternatives import SAME, by_split_point, flip, next_best
from nodes.splitting.search import BestSplit, path_cost
from nodes.splitting.throughput import slowest_stage
from reports.figures.draw import draw as draw_panels
from reports.figures.figure import Figure, alternative, composed
from reports.figures.panels import FigurePoint, Panel
from reports.figures.surfaces import write_png

ALTERNATIVES = 5  # that are shown
MOST_FACTOR = 1000.0  # by which a rate or a speed is changed
Change = Callable[[float], SplitPlan]  # the plan with something changed by a factor


def reasons(path: Path) -> dict[str, Any]:
    """Why the best split of the plan at ``path`` is the best; ready for JSON. Raises InputError.

    ``cost_by_split_point`` has, for each node but the last, the least cost [L+1] of leaving it after each number of
    layers, None where that cannot be. ``alternatives`` are the next best splits. ``flips`` are the changes of one
    link's rate or one node's speed, up to a thousand times, that make another split the best.
    """
    plan = read_plan(path)
    best, costs = search_plan(plan), plan_costs(plan)
    assert best is not None
    curves = by_split_point(costs.links, lambda links: search_plan(plan, costs._replace(links=links)))
    points = zip(plan.nodes, curves, strict=False)
    return {
        "cost_by_split_point": {node: [one.cost if one else None for one in curve] for node, curve in points},
        "alternatives": [{"splits": o.splits, "cost_s": o.cost} for o in next_best(curves, best, ALTERNATIVES)],
        "flips": [*_flips_by_rate(plan, best), *_flips_by_speed(plan, best)],
    }


def as_lines(found: dict[str, Any]) -> Iterator[str]:
    """What ``reasons`` found, with the best split's ``cost_s``, as text."""
    yield from ("", "next best:")
    for one in found["alternatives"]:
        more = f", {one['cost_s'] / found['cost_s'] - 1:+.1%}" if found["cost_s"] else ""
        yield f"  {one['splits']}: {one['cost_s']:.6g}{more}"
    yield from ("", "what would change the choice:")
    for one in found["flips"]:
        rate = f" ({one['rate_bps'] / 1e6:.4g} Mbit/s)" if "rate_bps" in one else ""
        yield f"  {one['what']}, {one['times']:.3g} times {one['how']}{rate}: {one['splits']}"
    if not found["flips"]:
        yield f"  no rate of a link and no speed of a node, up to {MOST_FACTOR:g} times higher or lower"


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the least cost of each split point into the PNG file ``path``. Raises InputError."""
    series = {
        f"leaving {node}": [FigurePoint(i, cost, 0.0) for i, cost in enumerate(curve) if cost is not None]
        for node, curve in found["cost_by_split_point"].items()
    }
    panel = Panel(
        "line", "least cost", "layers done", "", series, log_y=all(p.mean > 0 for p in chain(*series.values()))
    )
    figure = Figure("split", "Cost by split point", alternative([panel]), draw_panels([panel]))
    try:
        write_png(composed(figure), path)
    except (OSError, ValueError) as error:  # ValueError: an ending that is not a picture's
        raise InputError([f"{path}: {getattr(error, 'strerror', None) or error}"]) from None


def _flips_by_rate(plan: SplitPlan, best: BestSplit) -> Iterator[dict[str, Any]]:
    for p, link in enumerate(plan.links):
        for how, most in (("faster", MOST_FACTOR), ("slower", 1 / MOST_FACTOR)):
            if found := _flipped(best, partial(_with_rate, plan, p), most):
                what = f"the link from {plan.nodes[p]} to {plan.nodes[p + 1]}"
                yield _flip(what, how, *found) | {"rate_bps": link.rate_bps * found[0]}


def _flips_by_speed(plan: SplitPlan, best: BestSplit) -> Iterator[dict[str, Any]]:
    for node in plan.nodes:
        for how, most in (("faster", 1 / MOST_FACTOR), ("slower", MOST_FACTOR)):
            if found := _flipped(best, partial(_with_times, plan, node), most):
                yield _flip(node, how, *found)


def _flipped(best: BestSplit, change: Change, most: float) -> tuple[float, BestSplit] | None:
    return flip(lambda factor: _other(change(factor), best), most)


def _flip(what: str, how: str, factor: float, split: BestSplit) -> dict[str, Any]:
    return {"what": what, "how": how, "times": max(factor, 1 / factor), "splits": split.splits}


def _other(changed: SplitPlan, best: BestSplit) -> BestSplit | None:
    """The best split of ``changed``; None if ``best`` is still as good."""
    found, costs = search_plan(changed), plan_costs(changed)
    throughput = changed.objective == "throughput"
    kept = slowest_stage(costs, best.splits) if throughput else path_cost(*costs, best.splits)
    return found if found and kept > found.cost * SAME else None


def _with_rate(plan: SplitPlan, p: int, factor: float) -> SplitPlan:
    link = msgspec.structs.replace(plan.links[p], rate_bps=plan.links[p].rate_bps * factor)
    return msgspec.structs.replace(plan, links=[*plan.links[:p], link, *plan.links[p + 1 :]])


def _with_times(plan: SplitPlan, node: str, factor: float) -> SplitPlan:
    """``plan`` with a ``node`` that takes ``factor`` times as long."""
    tables = {"compute_s": plan.compute_s, "backward_s": plan.backward_s}
    scaled = {key: one | {node: [factor * cost for cost in one[node]]} for key, one in tables.items() if one}
    return msgspec.structs.replace(plan, **scaled)
