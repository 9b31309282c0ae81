"""``bench split --why`` against all splits of a small plan, and against where their costs cross."""

import json
import random
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from bench.cli.split import run_split
from bench.cli.split_reasons import reasons

Plan = dict[str, Any]
LAYERS = 4


def plan_of(seed: int) -> Plan:
    """Three nodes with random costs; the result of the last layer does not go on."""
    draw = random.Random(seed)
    nodes = ["ue", "mec", "cloud"]
    return {
        "nodes": nodes,
        "compute_s": {node: [draw.uniform(0.01, 1) for _ in range(LAYERS)] for node in nodes},
        "boundary_bytes": [*(draw.randrange(1, 10**6) for _ in range(LAYERS)), 0],
        "links": [{"rate_bps": draw.uniform(1e6, 5e7), "delay_s": draw.uniform(0, 0.1)} for _ in range(2)],
    }


def cost_s(plan: Plan, splits: tuple[int, ...]) -> float:
    """Compute of each node, and 8 * bytes / rate + delay of each link that is used."""
    done = (0, *splits, LAYERS)
    total = sum(sum(plan["compute_s"][node][done[p] : done[p + 1]]) for p, node in enumerate(plan["nodes"]))
    for link, split in zip(plan["links"], splits, strict=True):
        size = plan["boundary_bytes"][split]
        total += 8 * size / link["rate_bps"] + link["delay_s"] if split < LAYERS else 0.0
    return float(total)


def everything(plan: Plan) -> dict[tuple[int, ...], float]:
    return {splits: cost_s(plan, splits) for splits in combinations_with_replacement(range(LAYERS + 1), 2)}


def saved(plan: Plan, folder: Path) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return path


@pytest.mark.parametrize("seed", range(4))
def test_each_place_of_a_cut_has_the_least_cost_of_all_splits_with_it(seed: int, tmp_path: Path) -> None:
    plan = plan_of(seed)
    costs, found = everything(plan), reasons(saved(plan, tmp_path))
    for p, node in enumerate(plan["nodes"][:-1]):
        least = [min(cost for splits, cost in costs.items() if splits[p] == i) for i in range(LAYERS + 1)]
        assert found["cost_by_split_point"][node] == pytest.approx(least)
    ranked = sorted(costs.values())
    listed = [one["cost_s"] for one in found["alternatives"]]
    assert listed[0] == pytest.approx(ranked[1])
    assert all(costs[tuple(one["splits"])] == pytest.approx(one["cost_s"]) for one in found["alternatives"])
    assert listed == sorted(listed)


@pytest.mark.parametrize("seed", range(4))
def test_a_flip_is_where_another_split_becomes_the_best(seed: int, tmp_path: Path) -> None:
    plan = plan_of(seed)
    best = tuple(run_split(saved(plan, tmp_path))["splits"])
    flips = reasons(saved(plan, tmp_path))["flips"]
    assert flips
    for flip in flips:
        for beyond, expected in ((0.99, best), (1.01, tuple(flip["splits"]))):
            costs = everything(changed(plan, flip, 1 + (flip["times"] - 1) * beyond))
            assert costs[expected] == pytest.approx(min(costs.values()), rel=1e-6), (flip, beyond)


def changed(plan: Plan, flip: dict[str, Any], times: float) -> Plan:
    """``plan`` with the rate or the node of ``flip`` ``times`` as fast or as slow."""
    faster = times if flip["how"] == "faster" else 1 / times
    copy = json.loads(json.dumps(plan))
    if "rate_bps" in flip:
        (link,) = (p for p, node in enumerate(plan["nodes"]) if flip["what"].startswith(f"the link from {node} "))
        copy["links"][link]["rate_bps"] *= faster
    else:
        copy["compute_s"][flip["what"]] = [cost / faster for cost in plan["compute_s"][flip["what"]]]
    return dict(copy)


def test_where_the_rate_of_the_readme_s_plan_flips(tmp_path: Path) -> None:
    """By hand: [1, 2] costs 0.165 s + 160 kbit / rate, [1, 1] 0.155 s + 400 kbit / rate; equal at 24 Mbit/s."""
    plan = Path(__file__).parents[3] / "examples" / "plan.yaml"
    (flip,) = (f for f in reasons(plan)["flips"] if f["splits"] == [1, 1] and "rate_bps" in f)
    assert flip["rate_bps"] == pytest.approx(24e6, rel=2e-3)


def test_a_pipeline_and_a_limit_have_reasons_too(tmp_path: Path, command: Callable[..., int]) -> None:
    for more in ({"objective": "throughput"}, {"limits": {"latency": 10.0}}):
        path = saved(plan_of(1) | more, tmp_path)
        assert reasons(path)["alternatives"]
        assert command("split", str(path), "--why") == 0
        assert command("split", str(path), "--why", "--json", "--figure", str(tmp_path / "cost.png")) == 0
        with Image.open(tmp_path / "cost.png") as picture:
            assert min(picture.size) > 100
    assert command("split", str(path), "--why", "--figure", str(tmp_path / "none" / "cost.png")) == 2
