"""``bench split``: what a plan file answers, and what it says to a wrong one."""

import json
from itertools import combinations_with_replacement, pairwise
from pathlib import Path

import pytest
import torch

from bench.cli.profile import run_profile
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


def brute_force(layers: int, nodes: int) -> list[tuple[int, ...]]:
    return list(combinations_with_replacement(range(layers + 1), nodes - 1))


def told(splits: tuple[int, ...]) -> dict[str, float]:
    """What ``PLAN`` costs with these splits, from its numbers: latency, energy, and the slowest stage."""
    done = [0, *splits, 3]
    counts = [after - before for before, after in pairwise(done)]
    computing = [count * each for count, each in zip(counts, (4, 2, 0.5), strict=True)]
    sending = [8 * (100, 1, 50, 0)[split] / rate for split, rate in zip(splits, (80, 40), strict=True)]
    delays = sum(0.5 for split in splits if split < 3)
    joules = sum(count * each for count, each in zip(counts, (1, 9, 2), strict=True))
    slowest = max(*computing, *sending)
    return {"latency": sum(computing) + sum(sending) + delays, "energy": joules, "throughput": slowest}


@pytest.mark.parametrize("objective", ["latency", "energy", "throughput"])
@pytest.mark.parametrize("limits", [{}, {"latency": 8}, {"energy": 8}, {"latency": 12, "energy": 6}])
@pytest.mark.parametrize("memory", [{}, {"ue": 30}, {"ue": 30, "mec": 20}])
def test_limits_memory_and_throughput_are_kept_by_the_best_of_all_splits(split, objective, limits, memory) -> None:
    """Layers of 10, 20 and 30 bytes."""

    def fits(splits: tuple[int, ...]) -> bool:
        spans = pairwise([0, *splits, 3])
        held = [sum((10, 20, 30)[start:stop]) for start, stop in spans]
        return all(size <= memory.get(node, 60) for node, size in zip(("ue", "mec", "cloud"), held, strict=True))

    ways = {splits: told(splits) for splits in brute_force(3, 3)}
    allowed = {
        splits: costs
        for splits, costs in ways.items()
        if fits(splits) and all(costs[metric] <= most for metric, most in limits.items())
    }
    text = PLAN + ENERGY + f"objective: {objective}\nlimits: {json.dumps(limits)}\n"
    if memory:
        text += f"memory_bytes: {json.dumps(memory)}\nparameter_bytes: [10, 20, 30]\n"
    if not allowed:
        with pytest.raises(InputError):
            split(text)
        return
    answer = split(text)
    chosen = allowed[tuple(answer["splits"])]
    assert answer["cost_s"] == pytest.approx(chosen[objective])
    assert chosen[objective] == pytest.approx(min(costs[objective] for costs in allowed.values()))
    if limits or objective == "throughput":
        assert (answer["latency_s"], answer["energy_j"]) == pytest.approx((chosen["latency"], chosen["energy"]))
    else:
        assert list(answer) == ["cost_s", "splits", "sci_bytes"]


def test_a_pipeline_sends_gradients_the_other_way_and_waits_for_no_delay(split) -> None:
    answer = split(PLAN + TRAINING + "objective: throughput\n")
    assert answer["splits"] == [0, 1]  # and not at the end of the second node, which is as fast a stage
    assert answer["cost_s"] == pytest.approx(10)  # 100 bytes at 80 bit/s
    both_ways = TRAINING.replace("[0, 5, 0, 0]", "[20, 5, 0, 0]")
    answer = split(PLAN.replace("[100, 1", "[1, 1") + both_ways + "objective: throughput\n")
    assert (answer["splits"], answer["cost_s"]) == ([0, 1], pytest.approx(2))  # 20 bytes return while 1 goes


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("limits: {latency: 6}\n", "10: limits: no split is within them; the least of each alone is latency 6.3 s"),
        ("memory_bytes: {ue: 1, mec: 1, cloud: 1}\nparameter_bytes: [2, 2, 2]\n", "10: memory_bytes: no split"),
        ("memory_bytes: {ue: 1}\n", "1: parameter_bytes: has 0 entries"),
        ("memory_bytes: {uee: 1}\nparameter_bytes: [2, 2, 2]\n", "10: memory_bytes.uee: no node has this name"),
        ("limits: {energy: 6}\n", "1: energy_j: this key is required"),
        ("limits: {power: 6}\n", "10: limits.power: "),
        ("limits: {latency: -6}\n", "10: limits.latency: "),
        (
            "objective: throughput\nparameter_bytes: [2, 2, 2]\ncurrent_splits: [1, 1]\n",
            "12: current_splits: moves are paid once",
        ),
    ],
)
def test_what_limits_cannot_be_kept_is_told(errors, more: str, found: str) -> None:
    assert [text for text in errors(PLAN + more) if text.startswith(found)]


PROFILED = """\
nodes: [ue, mec]
profiles: {ue: ue.json, mec: devices/mec.json}
links: [{rate_bps: 8000, delay_s: 0.5}]
"""
PROFILE = {
    "layers": ["a", "b", "c"],
    "boundary_bytes": [400, 100, 900, 40],
    "forward_s": [0.1, 0.2, 1.5],
    "backward_s": [0.2, 0.4, 3.0],
    "parameters": [10, 20, 30],
}


@pytest.fixture
def profiled(split, tmp_path: Path):
    """Answers a plan with the profile of a UE and that of a server that is ten times faster."""

    def run(more: str = "", **changes):
        faster = {key: [seconds / 10 for seconds in PROFILE[key]] for key in ("forward_s", "backward_s")}
        (tmp_path / "devices").mkdir(exist_ok=True)
        (tmp_path / "ue.json").write_text(json.dumps(PROFILE, indent=2))
        (tmp_path / "devices" / "mec.json").write_text(json.dumps(PROFILE | faster | changes, indent=2))
        return split(PROFILED + more)

    return run


def as_plan(more: str = "", last: int = 0) -> str:
    """The same plan with its numbers written out."""
    return f"""\
nodes: [ue, mec]
compute_s: {{ue: [0.1, 0.2, 1.5], mec: [0.01, 0.02, 0.15]}}
boundary_bytes: [400, 100, 900, {last}]
links: [{{rate_bps: 8000, delay_s: 0.5}}]
{more}"""


@pytest.mark.parametrize(
    ("more", "written"),
    [
        ("", as_plan()),
        ("deliver: true\n", as_plan(last=40)),
        (
            "training: true\n",
            as_plan("backward_s: {ue: [0.2, 0.4, 3.0], mec: [0.02, 0.04, 0.3]}\ngradient_bytes: [0, 100, 900, 0]\n"),
        ),
        ("memory_bytes: {ue: 39}\n", as_plan("memory_bytes: {ue: 39}\nparameter_bytes: [40, 80, 120]\n")),
        ("current_splits: [3]\n", as_plan("current_splits: [3]\nparameter_bytes: [40, 80, 120]\n")),
    ],
)
def test_profiles_of_several_devices_stand_for_their_numbers(split, profiled, more: str, written: str) -> None:
    expected = split(written)
    assert profiled(more) == expected


def test_what_bench_profile_writes_is_read(split, tmp_path: Path) -> None:
    profile = run_profile("nodes.zoo.small_cnn:small_cnn", (3, 8, 8), "module")
    (tmp_path / "ue.json").write_text(json.dumps(profile, indent=2))
    answer = split(PROFILED.replace("devices/mec.json", "ue.json"))
    assert answer["splits"] == [len(profile["layers"])]
    assert answer["cost_s"] == pytest.approx(sum(profile["forward_s"]))


@pytest.mark.parametrize(
    ("more", "changes", "found"),
    [
        ("", {"layers": ["a", "b", "d"]}, "plan.yaml:2: profiles.mec: other layers or sizes than 'ue' has"),
        ("", {"forward_s": [0.1, -1, 1]}, "devices/mec.json:15: forward_s[1]: "),
        ("", {"forward_s": 3}, "plan.yaml:2: profiles.mec: devices/mec.json has no list forward_s"),
        ("training: 1\n", {}, "plan.yaml:4: training: expected true or false"),
        ("compute_s: {ue: [1, 1, 1]}\n", {}, "plan.yaml:4: compute_s: comes from profiles"),
    ],
)
def test_an_error_in_profiles_names_file_line_and_key(profiled, tmp_path: Path, more, changes, found) -> None:
    with pytest.raises(InputError) as caught:
        profiled(more, **changes)
    assert [text for text in caught.value.lines if text.startswith(f"{tmp_path}/{found}")], caught.value.lines


@pytest.mark.parametrize(
    ("profiles", "found"),
    [
        ("{}", "plan.yaml:2: profiles: expected"),
        ("[ue.json]", "plan.yaml:2: profiles: expected"),
        ("{ue: 3}", "plan.yaml:2: profiles.ue: expected the path"),
        ("{ue: none.json}", "none.json:1: "),
        ("{ue: plan.yaml}", "plan.yaml:2: profiles.ue: plan.yaml has no list layers"),
    ],
)
def test_profiles_that_are_none_are_told(split, tmp_path: Path, profiles: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        split(PROFILED.replace("{ue: ue.json, mec: devices/mec.json}", profiles))
    assert [text for text in caught.value.lines if text.startswith(f"{tmp_path}/{found}")], caught.value.lines
