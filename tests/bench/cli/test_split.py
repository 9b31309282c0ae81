"""``bench split``: what a plan file answers, and what it says to a wrong one."""

import json
from pathlib import Path

import pytest
import torch

from bench.cli.split import run_split
from bench.suite.document import InputError
from nodes.wire.codec import encode
from nodes.wire.messages import SplitCost

PLAN = """\
nodes: [ue, mec, cloud]
compute_s:
  ue: [4, 4, 4]
  mec: [2, 2, 2]
  cloud: [0.5, 0.5, 0.5]
boundary_bytes: [100, 1, 50, 0]
links:
  - {rate_bps: 80, delay_s: 0.5}
  - {rate_bps: 40, delay_s: 0.5}
"""
TRAINING = """\
backward_s: {ue: [8, 8, 8], mec: [0, 0, 0], cloud: [0, 0, 0]}
gradient_bytes: [0, 5, 0, 0]
"""


@pytest.fixture
def split(tmp_path: Path):
    def run(text: str):
        path = tmp_path / "plan.yaml"
        path.write_text(text)
        return run_split(path)

    return run


@pytest.fixture
def errors(split, tmp_path: Path):
    def run(text: str) -> list[str]:
        with pytest.raises(InputError) as caught:
            split(text)
        assert all(line.startswith(f"{tmp_path / 'plan.yaml'}:") for line in caught.value.lines)
        return [line.removeprefix(f"{tmp_path / 'plan.yaml'}:") for line in caught.value.lines]

    return run


def test_a_plan_is_answered_with_cost_splits_and_sci_bytes_of_the_messages_in_the_order_of_the_links(split) -> None:
    answer = split(PLAN)
    assert list(answer) == ["cost_s", "splits", "sci_bytes"]
    assert answer["cost_s"] == pytest.approx(4 + (0.1 + 0.5) + (0.2 + 0.5) + 1)
    assert answer["splits"] == [1, 1]
    assert json.loads(json.dumps(answer)) == answer
    tensors = {"cost_s": torch.zeros(4)}
    messages = (SplitCost(assignment=0, node=node, tensors=tensors) for node in ("mec", "cloud"))
    whole = [b"".join(encode(message, sequence=9)) for message in messages]
    assert answer["sci_bytes"] == [len(message) for message in whole]
    assert len(whole[0]) < len(whole[1])


def test_a_result_goes_on_to_the_last_node_and_training_adds_the_way_back(split) -> None:
    free = PLAN.replace("ue: [4, 4, 4]", "ue: [0, 0, 0]")
    assert split(free) | {"sci_bytes": []} == {"cost_s": 0.0, "splits": [3, 3], "sci_bytes": []}
    delivered = split(free.replace("50, 0]", "50, 10]"))
    assert delivered["splits"] == [1, 1]
    assert delivered["cost_s"] == pytest.approx(0.1 + 0.5 + 0.2 + 0.5 + 1)
    answer = split(PLAN + TRAINING)
    assert answer["splits"] == [0, 1]
    assert answer["cost_s"] == pytest.approx((10 + 0.5 + 0.5) + 2 + (0.2 + 0.5 + 1 + 0.5) + 1)
    assert split(PLAN + TRAINING.replace("8, 8, 8", "1, 8, 8"))["cost_s"] == pytest.approx(5 + 1.6 + 2.2 + 1)


def test_parameter_moves_hold_a_split_back(split) -> None:
    moves = "parameter_bytes: [1000, 1000, 1000]\ncurrent_splits: [2, 3]\n"
    answer = split(PLAN + moves)
    assert answer["splits"] == [2, 3]
    assert answer["cost_s"] == pytest.approx(8 + 5 + 0.5 + 2)
    light = split(PLAN + moves.replace("1000", "1"))
    assert light["splits"] == [1, 1]
    assert light["cost_s"] == pytest.approx(4 + 0.6 + 0.7 + 1 + (0.1 + 0.5) + (0.4 + 0.5))


ENERGY = "energy_j: {ue: [1, 1, 1], mec: [9, 9, 9], cloud: [2, 2, 2]}\n"


@pytest.mark.parametrize(
    ("objective", "splits", "cost"),
    [
        ("", [1, 1], 6.3),
        ("objective: latency", [1, 1], 6.3),
        ("objective: energy", [3, 3], 3),
        ("objective: {latency: 2}", [1, 1], 12.6),
        ("objective: {energy: 2}", [3, 3], 6),
        ("objective: {latency: 1, energy: 0.1}", [1, 1], 6.3 + 0.5),
        ("objective: {latency: 2, energy: 1e1}", [3, 3], 24 + 30),
    ],
)
def test_an_objective_weighs_latency_and_energy(split, objective: str, splits: list[int], cost: float) -> None:
    answer = split(PLAN + ENERGY + objective)
    assert answer["splits"] == splits
    assert answer["cost_s"] == pytest.approx(cost)


def test_one_node_computes_all_and_the_largest_numbers_allowed_still_give_a_number(split) -> None:
    plan = "nodes: [ue]\ncompute_s: {ue: [1, 2]}\nboundary_bytes: [1, 1, 1]\n"
    alone = {"cost_s": 3.0, "splits": [], "sci_bytes": []}
    assert split(plan) == alone
    assert split(plan + "links: []\nparameter_bytes: [1, 1]\ncurrent_splits: []\n") == alone
    plan = PLAN.replace("[100, 1, 50, 0]", "[1e18, 1e18, 1e18, 1e18]").replace("80", "1e-9").replace("40", "1e-9")
    assert json.dumps(split(plan), allow_nan=False)


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("nodes: [ue, mec, cloud]", "nodes: []", 1, "nodes"),
        ("[ue, mec, cloud]", "[ue, mec, 3]", 1, "nodes[2]"),
        ("[ue, mec, cloud]", "[ue, mec, cloud, ue]\nx: 1", 2, "x"),
        ("  cloud: [0.5, 0.5, 0.5]", "  clout: [0.5, 0.5, 0.5]", 5, "compute_s.clout"),
        ("[2, 2, 2]", "[2, 2]", 4, "compute_s.mec"),
        ("[2, 2, 2]", "[2, -2, 2]", 4, "compute_s.mec[1]"),
        ("[2, 2, 2]", "[2, .nan, 2]", 4, "compute_s.mec[1]"),
        ("[2, 2, 2]", "[2, .inf, 2]", 4, "compute_s.mec[1]"),
        ("[2, 2, 2]", "[2, 1e19, 2]", 4, "compute_s.mec[1]"),
        ("[2, 2, 2]", "[2, two, 2]", 4, "compute_s.mec[1]"),
        ("[2, 2, 2]", f"[2, 1{'0' * 400}, 2]", 4, "compute_s.mec[1]"),
        ("[100, 1, 50, 0]", "[100]", 6, "boundary_bytes"),
        ("[100, 1, 50, 0]", "[100, -1, 50, 0]", 6, "boundary_bytes[1]"),
        ("boundary_bytes", "boundary_byte", 6, "boundary_byte"),
        ("rate_bps: 40", "rate_bps: 0", 9, "links[1].rate_bps"),
        ("rate_bps: 40", "rate_bps: -1", 9, "links[1].rate_bps"),
        (", delay_s: 0.5}\n  - {rate_bps: 40", "}\n  - {rate_bps: 40", 8, "links[0].delay_s"),
        ("rate_bps: 40", "rate_bps: 40, loss: 0", 9, "links[1].loss"),
        ("  - {rate_bps: 40, delay_s: 0.5}\n", "", 7, "links"),
        ("links:\n", "gradient_bytes: [1, 1, 1]\nlinks:\n", 7, "gradient_bytes"),
        ("links:\n", "backward_s: {ue: [1, 1, 1], mec: [1, 1, 1]}\nlinks:\n", 7, "backward_s.cloud"),
        ("links:\n", "backward_s:\nlinks:\n", 7, "backward_s"),
        ("links:\n", "parameter_bytes: [1, 1, 1]\nlinks:\n", 1, "current_splits"),
        ("links:\n", "current_splits: [1, 1]\nlinks:\n", 1, "parameter_bytes"),
        ("links:\n", "parameter_bytes: [1, 1]\ncurrent_splits: [1, 1]\nlinks:\n", 7, "parameter_bytes"),
        ("links:\n", "parameter_bytes: [1, 1, 1]\ncurrent_splits: [1]\nlinks:\n", 8, "current_splits"),
        ("links:\n", "parameter_bytes: [1, 1, 1]\ncurrent_splits: [2, 1]\nlinks:\n", 8, "current_splits[1]"),
        ("links:\n", "parameter_bytes: [1, 1, 1]\ncurrent_splits: [2, 4]\nlinks:\n", 8, "current_splits[1]"),
        ("links:\n", "parameter_bytes: [1, 1, 1]\ncurrent_splits: [0.5, 1]\nlinks:\n", 8, "current_splits[0]"),
        ("links:\n", "objective: energy\nlinks:\n", 1, "energy_j"),
        ("links:\n", "objective: power\nlinks:\n", 7, "objective"),
        ("links:\n", "objective: {latency: 1, power: 1}\nlinks:\n", 7, "objective.power"),
        ("links:\n", "objective: {latency: 0}\nlinks:\n", 7, "objective"),
        ("links:\n", "energy_j: {ue: [1, 1, 1]}\nlinks:\n", 7, "energy_j.mec"),
    ],
)
def test_an_error_names_line_and_key(errors, old: str, new: str, line: int, key: str) -> None:
    assert PLAN.count(old) == 1
    found = errors(PLAN.replace(old, new))
    assert [text for text in found if text.startswith(f"{line}: {key}: ")], found
    assert all("\n" not in text for text in found)


def test_a_node_name_may_hold_dots_but_not_be_given_twice(errors) -> None:
    found = errors(PLAN.replace("[ue, mec, cloud]", "[ue, mec, ue]"))
    assert "1: nodes[2]: 'ue' is named twice" in found
    found = errors("nodes: [a.b]\nboundary_bytes: [1, 1]\ncompute_s:\n  a.b: [1, 2]\n")
    assert found == ["4: compute_s.a.b: has 2 entries, needs 1 (one fewer than boundary_bytes)"]


def test_all_errors_are_found_at_once_in_the_order_of_the_file(errors) -> None:
    found = errors(PLAN.replace("[2, 2, 2]", "[2]").replace("[4, 4, 4]", "[4]") + "current_splits: [9, 1]\n")
    keys = ["parameter_bytes", "compute_s.ue", "compute_s.mec", "current_splits[0]", "current_splits[1]"]
    assert [text.split(": ")[1] for text in found] == keys
