"""Federations that go on from the end of a round: they end as if nothing had happened, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from federations import JOB, Trained, make_federation, same, trained
from msgspec.structs import replace

from nodes.errors import ModelError
from nodes.federated.keeping import keepable, last_kept, superseded
from nodes.spec.federation import Absence, ClientMove, Federation, KeptRounds
from nodes.spec.job import DataSpec, OptimizerSpec, StageSpec

TIMES = ("began", "trained", "averaged", "ended", "backward_s")
ADAM = replace(JOB, optimizer=OptimizerSpec(name="adam", lr=0.01), data=DataSpec(train_samples=72, test_samples=31))
U_SHAPE = replace(ADAM, splits=(2,), tail=3, stages=(StageSpec(),) * 2)
FADING = replace(ADAM, stages=(StageSpec(name="user_stages:Fading"),))
STILL = replace(ADAM, model="user_models:Still")
REPORTS = [(edge, number) for edge in range(2) for number in range(4)]
CASES: dict[str, dict[str, Any]] = {
    "sl": {},
    "sflv1": {"batch_norm": "local"},
    "sflv2": {"participants": 2},
    "psl": {"job": FADING},
    "psl-averaged": {"test_every": 0},
    "epsl": {"phi": 0.5},
    "fl": {"participants": 2, "test_every": 2},
    "sl below a cloud": {"edges": 2},
    "sflv1 below a cloud": {"edges": 2, "participants": 1},
    "psl-averaged below a cloud": {"edges": 2, "cloud_every": 2, "test_every": 3, "rounds": 4},
    "psl with a tail": {"job": U_SHAPE},
    "user_schemes:ServerMomentum": {"job": STILL, "options": {"momentum": 0.9}},
    "user_schemes:Pairs": {},
}


def federation(case: str, keep: KeptRounds | None = None, **more: Any) -> Federation:
    changes = {"job": ADAM, "rounds": 3} | CASES[case] | more
    return make_federation(case.partition(" ")[0], changes.pop("job"), keep=keep, **changes)


def counted(run: Trained, number: int = 0) -> Any:
    """All that is counted from round ``number`` on, but times."""
    rounds = [
        (one.edge, one.round, one.correct_by_class, {k: v for k, v in one.metrics.items() if k not in TIMES})
        for one in run.outcome.rounds
        if one.round >= number
    ]
    return rounds, [(node.name, node.steps, node.sent) for node in run.outcome.nodes]


@pytest.mark.parametrize("case", CASES)
def test_a_federation_goes_on_from_the_end_of_a_round_as_if_it_had_not_ended(case, tmp_path):
    whole = federation(case, KeptRounds(folder=str(tmp_path)))
    undisturbed = trained(whole)
    assert last_kept(whole, REPORTS) == whole.rounds - 1
    (tmp_path / f"edge1-{2 * whole.rounds - 2}.pt").unlink()
    last = last_kept(whole, REPORTS)
    assert last == 1
    again = trained(replace(whole, keep=KeptRounds(folder=str(tmp_path), round=last)))
    assert counted(again, last) == counted(undisturbed, last)
    assert min(one.round for one in again.outcome.rounds) == last
    assert all(same(again.states[name], state) for name, state in undisturbed.states.items())


@pytest.mark.parametrize("case", ["sflv1 below a cloud", "psl"])
def test_a_federation_that_keeps_its_state_is_the_same(case, tmp_path):
    kept, plain = trained(federation(case, KeptRounds(folder=str(tmp_path)))), trained(federation(case))
    assert counted(kept) == counted(plain)
    assert all(same(kept.states[name], state) for name, state in plain.states.items())


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory) -> Path:
    """What a cloud, two edge servers and three clients keep in three rounds, in each of which one client rests."""
    folder = tmp_path_factory.mktemp("kept")
    trained(federation("sflv1 below a cloud", KeptRounds(folder=str(folder))))
    return folder


@pytest.mark.parametrize("node", ["cloud", "edge2", "client3"])
@pytest.mark.parametrize("harm", ["missing", "torn"])
def test_a_state_that_is_missing_or_torn_takes_all_a_round_back(node, harm, kept_folder, tmp_path):
    folder = shutil.copytree(kept_folder, tmp_path / "kept")
    whole = federation("sflv1 below a cloud", KeptRounds(folder=str(folder)))
    assert last_kept(whole, REPORTS) == 2
    file = folder / f"{node}-4.pt"
    file.unlink() if harm == "missing" else file.write_bytes(file.read_bytes()[:-9])
    assert last_kept(whole, REPORTS) == 1


def test_all_begin_where_no_round_is_kept_by_all_or_its_reports_are_missing(kept_folder, tmp_path):
    whole = federation("sflv1 below a cloud", KeptRounds(folder=str(kept_folder)))
    assert last_kept(whole, REPORTS[:1]) is None
    assert last_kept(whole, [(0, 0), (1, 0), (0, 1)]) == 1
    empty = replace(whole, keep=KeptRounds(folder=str(tmp_path)))
    assert last_kept(empty, REPORTS) is None


def test_a_file_of_anything_else_is_named(kept_folder, tmp_path):
    torch.save({"worker": {}}, tmp_path / "edge1-0.pt")
    whole = federation("psl", KeptRounds(folder=str(tmp_path), round=0))
    with pytest.raises(ModelError, match=r"edge1-0\.pt is no state of a federation's node"):
        trained(whole)


@pytest.mark.parametrize(
    ("moments", "period", "left"),
    [
        ([0, 2, 4, 6], 1, [2, 4, 6]),
        ([1, 2], 1, [2]),  # the tests of round 0, in a round in which the client trained
        ([2, 3], 1, [2, 3]),
        ([0, 9], 1, [0, 9]),  # it rested long
        ([0, 2, 4, 10], 1, [4, 10]),
        ([0, 2, 4, 6], 2, [2, 6]),
        ([2, 6, 10, 14], 2, [6, 10, 14]),
    ],
)
def test_the_last_state_of_each_of_three_periods_is_left(moments, period, left):
    assert sorted(set(moments) - superseded(moments, period)) == left


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [
        ("psl-async", {}),
        ("user_schemes:FirstDone", {"options": {"count": 2, "server_parts": "joint"}}),
        ("psl", {"absences": (Absence(0, 1, 1.0),)}),
        ("psl", {"edges": 2, "moves": (ClientMove(0, 1, 1),)}),
        ("psl", {"round_deadline_s": 9.0}),
        ("psl", {"folder": "states"}),
    ],
)
def test_what_depends_on_the_time_goes_on_from_the_beginning(scheme, changes):
    assert not keepable(make_federation(scheme, **changes))
    assert keepable(make_federation("psl"))
