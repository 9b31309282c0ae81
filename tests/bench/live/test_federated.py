"""Federations on real processes: equal to those in one process; clients are killed at any moment, and come back."""

import functools
import itertools
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from promises import see

from bench.live import federated as live_federation
from bench.live import run
from bench.live.faults.restarts import restarting
from bench.live.federated import LiveFederation
from bench.live.processes import RunError
from bench.live.shaping import Shaping
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.federated.in_process import FederationOutcome, run_in_process
from nodes.federated.schemes import SCHEMES
from nodes.model.factory import outline
from nodes.spec.federation import ClientMove, Federation, SchemeSpec
from nodes.spec.job import DataSpec, Job, StageSpec
from nodes.wire.messages import Begin, ClientFinished, ClientReturned

run_live = functools.partial(live_federation.run_live, self_test="skip", shaping="none")
EXAMPLES = Path(__file__).parents[3] / "examples"
LINK = LinkProfile(rate_bps=500e6, delay_s=0.001)
BATCH, STEPS, TESTS = 8, 3, 12  # TESTS: pictures of each client
TIMES = ("began", "trained", "averaged", "ended", "backward_s", "sent_bytes")
SEEDED = random.Random(7)
NAMED_S, TRIES = 3.0, 3  # until a death is told; the least of a few, as other work only makes it later


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def federation(
    scheme: str = "psl",
    clients: int = 3,
    job: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> Federation:
    fields = {"rounds": 2, "local_steps": STEPS} | more
    data = DataSpec(train_samples=clients * BATCH * STEPS, test_samples=clients * TESTS)
    about = {"model": "nodes.zoo.small_cnn:small_cnn", "splits": (4,), "stages": (StageSpec(),), "data": data} | (
        job or {}
    )
    whole = Job(input_shape=(3, 16, 16), classes=10, nodes=("client", "edge"), batch_size=BATCH, threads=1, **about)
    return Federation(job=whole, scheme=SchemeSpec(name=scheme, options=options or {}), clients=clients, **fields)


def mine(**options: Any) -> dict[str, Any]:
    return {"stages": (StageSpec(name="mines:Mine", options=options),)}


def nodes_left() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.name().startswith(("client", "edge", "cloud"))]


def total(came: FederationOutcome, name: str) -> float:
    return sum(one.metrics[name] for one in came.rounds)


def answered(came: FederationOutcome) -> float:
    return sum(sum(one.total_by_class) for one in came.rounds)


def assert_equal(came: FederationOutcome, expected: FederationOutcome) -> None:
    assert len(came.rounds) == len(expected.rounds)
    for one, other in zip(came.rounds, expected.rounds, strict=True):
        assert (one.correct_by_class, one.total_by_class) == (other.correct_by_class, other.total_by_class)
        for name in other.metrics.keys() - TIMES:  # sums of losses are in the order of arrival
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-12 if name == "loss" else 0), name
    payloads = [  # whether a Shutdown is still sent to one that ends itself is a matter of who is faster
        {
            node.name: {
                to: {k: v.payload_bytes for k, v in sent.items() if k != "shutdown"} for to, sent in node.sent.items()
            }
        }
        for outcome in (came, expected)
        for node in sorted(outcome.nodes, key=lambda node: node.name)
    ]
    assert payloads[: len(came.nodes)] == payloads[len(came.nodes) :]


def assert_same_state(one: Path, other: Path, clients: int) -> None:
    for client in range(clients):
        parts = [torch.load(folder / f"client-{client}.pt", weights_only=True) for folder in (one, other)]
        assert parts[0]["begun"] == parts[1]["begun"]
        pairs = zip(*(part["parts"][0]["modules"]["part"].values() for part in parts), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.promise(
    "Nodes",
    "with `--restart N`, an edge server, the cloud or a client of a federation is killed or stopped",
    "all go on after the last round that all have kept, and end as if nothing had happened",
)
@pytest.mark.parametrize(
    ("lost", "fuse", "how"),
    [
        ("edge2", {"node": "edge2"}, "was killed by SIGKILL"),
        ("client2", {"node": "client2", "effect": "stop"}, "has not been heard of for 4 s"),
        ("cloud", {"node": "client1", "victim": "cloud"}, "was killed by SIGKILL"),
    ],
)
def test_a_federation_of_which_a_process_dies_goes_on_and_ends_as_if_none_had(lost, fuse, how, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SILENCE_S", 4.0)
    reported: list[tuple[int, int]] = []
    fuse |= {"moment": "train", "after": 2 * STEPS + 1, "once": str(tmp_path / "once")}  # in the third round
    about = {"clients": 2, "edges": 2, "rounds": 3}
    with restarting(1, tmp_path) as restarts:
        whole = federation("sflv1", job=mine(**fuse), **about)
        came = run_live(whole, say=lambda one: reported.append((one.edge, one.round)))
    assert len(restarts.lines) == 1
    assert re.fullmatch(rf"{lost} {how}; the nodes start again after the training of round [12] .*", restarts.lines[0])
    assert sorted(reported) == list(itertools.product(range(2), range(3)))
    undisturbed = run_in_process(federation("sflv1", **about))
    assert_equal(came, undisturbed)
    assert [node.steps for node in came.nodes] == [node.steps for node in undisturbed.nodes]
    assert (came.lost, nodes_left(), list(tmp_path.iterdir())) == ({}, [], [tmp_path / "once"])


@pytest.mark.parametrize("scheme", ["psl", "sflv1"])
def test_a_live_run_is_that_in_one_process_to_the_bit(scheme, tmp_path):
    came = run_live(federation(scheme, folder=str(tmp_path / "live")))
    assert_equal(came, run_in_process(federation(scheme, folder=str(tmp_path / "own"))))
    assert_same_state(tmp_path / "live", tmp_path / "own", 3)
    assert len({node.pid for node in came.nodes}) == 4
    for node in came.nodes:
        assert len(node.connections) == (6 if node.name == "edge1" else 2)
        assert all(link.written_bytes == link.acked_bytes > 0 for link in node.connections)
    frames = sum(kind.header_bytes + kind.payload_bytes for kind in came.nodes[1].sent["next"].values())
    assert 0 < sum(link.written_bytes for link in came.nodes[1].connections) - frames < 2000  # HTTP and WebSocket
    assert nodes_left() == []


def test_a_scheme_of_ones_own_is_live_what_it_is_in_one_process(tmp_path):
    """It trains the two of four clients that have most images, of which all have as many: the first two."""
    scheme, options = "scheme:TrimmedMean", {"participants": 2}
    live_one, own = (federation(scheme, 4, options=options, folder=str(tmp_path / name)) for name in "ab")
    came = run_live(live_one, clients_per_process=2)
    assert_equal(came, run_in_process(own))
    assert_same_state(tmp_path / "a", tmp_path / "b", 2)
    assert [node.steps for node in came.nodes] == [2 * 2 * STEPS, 2 * STEPS, 2 * STEPS, 0, 0]


def test_two_edge_servers_and_a_cloud_below_clients_that_share_processes(tmp_path):
    links = Duplex(up=LINK, down=LINK)
    live_one, own = (
        federation("psl-averaged", 4, edges=2, folder=str(tmp_path / name), slowdowns=(1.0, 2.0)) for name in "ab"
    )
    came = run_live(live_one, links, links, clients_per_process=3, shaping="emulated")
    assert_equal(came, run_in_process(own))
    assert_same_state(tmp_path / "a", tmp_path / "b", 4)
    assert [node.name for node in came.nodes][:3] == ["cloud", "edge1", "edge2"]
    pids = [node.pid for node in came.nodes]
    assert len(set(pids[3:6])) == 1
    assert len(set(pids)) == 5
    assert all(link.written_bytes == link.acked_bytes > 0 for node in came.nodes for link in node.connections)


# -- clients that die


class Moment(NamedTuple):
    """``victim`` dies when ``where`` comes to ``moment`` after so many times."""

    scheme: str
    edges: int
    victim: str
    where: str
    moment: str
    after: int


SORTS = [(scheme, 1) for scheme in SCHEMES] + [("psl-averaged", 2), ("sflv1", 2)]


def seeded_moment(number: int) -> Moment:
    """The first of each sort is a moment of the victim's own, the next one of its server's, or in fl of a client's."""
    scheme, edges = SORTS[number % len(SORTS)]
    dies = SEEDED.randint(1, 2 + edges)
    victim = where = f"client{dies}"
    if number >= len(SORTS):
        where = f"client{dies % 3 + 1}" if scheme == "fl" else f"edge{1 + (edges == 2 and dies > 2)}"
    moment = "build" if not number else SEEDED.choice(("train", "train", "test"))
    rounds = 1 if (moment, scheme) == ("test", "psl-async") else 2  # its clients test once
    often = 1 if not number else rounds * {"train": STEPS, "test": 2}[moment]
    return Moment(scheme, edges, victim, where, moment, SEEDED.randrange(often))


def mined(at: Moment) -> Federation:
    """Clients take 3 steps a round, then test 2 batches, for two rounds; a fast one waits for the slowest."""
    job = mine(node=at.where, moment=at.moment, after=at.after, victim=at.victim)
    if at.scheme == "fl":
        model = f"mines:mined_{at.where}_{at.moment}_{at.after}_{at.victim}"
        job = {"model": model, "splits": (len(outline(model, 10, (3, 16, 16))),)}
    options = {"epsl": {"phi": 0.5}, "psl-async": {"staleness": 0}}.get(at.scheme, {})
    return federation(at.scheme, 2 + at.edges, job, options, edges=at.edges)


@pytest.mark.parametrize(
    "at", [seeded_moment(number) for number in range(2 * len(SORTS))], ids=lambda at: "-".join(map(str, at))
)
@pytest.mark.promise(
    "Nodes",
    "a client of a federation is killed, also before the runner has reached its edge server",
    "the others finish; clients and samples are counted right",
)
def test_a_client_killed_at_any_moment_leaves_a_finished_run_with_right_counts(at):
    """Told counts, less what the others did by their own: what is left is the victim's, of which the moment is known.

    All its own moments are known exactly, those of others within what it can have done by then.
    """
    whole, free = mined(at), at.scheme == "psl-async"
    came = run_live(whole)
    assert came.lost == {at.victim: f"{at.victim} was killed by SIGKILL"}
    see("all rounds ended, one client lost")
    edges = range(at.edges)
    assert [(one.edge, one.round) for one in came.rounds] == list(itertools.product(edges, range(2)))
    nodes = {node.name: node for node in came.nodes}
    survivors = set(whole.client_names) - {at.victim}
    assert nodes.keys() == survivors | set(whole.edge_names) | ({"cloud"} if at.edges > 1 else set())
    for name in survivors:
        edge = nodes[whole.edge_names[whole.edge_of(whole.client_names.index(name))]]
        assert free or nodes[name].steps == 2 * STEPS
        assert at.scheme == "fl" or edge.sent[name]["gradient"].messages == nodes[name].steps
    done = sum(nodes[name].steps for name in survivors)
    served = total(came, "steps") - done
    trained = total(came, "count") / BATCH - done
    tests = answered(came) / TESTS - len(survivors) * (1 if free else 2)
    group = whole.edge_of(whole.client_names.index(at.victim))
    there = [one.metrics["participants"] for one in came.rounds if one.edge == group]
    everyone = 3 if at.edges == 1 else 2
    if free:  # a round is as many steps as ever, and a joint one may take it past that
        assert all(one.metrics["steps"] - 3 * STEPS in range(3) for one in came.rounds)
    if at.where != at.victim:
        assert served in range(2 * STEPS + 1)
        assert trained in ((served - 1, served) if free else range(0, int(served) + 1, STEPS))
        assert tests in range(2 if free else int(trained) // STEPS + 1)
        assert there[0] == everyone
        return
    rounds, _ = divmod(at.after, STEPS if at.moment == "train" else 2)  # that it completed
    assert tests == (0 if free else rounds)
    if at.moment == "build":
        assert (served, trained, there) == (0, 0, [everyone - 1] * 2)
        return
    complete = (rounds + (at.moment == "test")) * STEPS
    begun = at.after if at.moment == "train" else complete
    if free:
        assert served == trained
        assert at.moment == "test" or served == at.after
    else:
        assert (served, trained) == (complete if at.scheme == "fl" else begun, complete)
        assert there == [everyone, everyone if rounds else everyone - 1]


@pytest.mark.promise("Nodes", "a client is killed and started again", "it goes on from its state")
def test_a_client_comes_back_in_a_new_process_and_goes_on_from_its_state(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SILENCE_S", 60.0)
    whole = federation("psl", rounds=12, local_steps=1, test_every=12, folder=str(tmp_path))

    async def script(here: LiveFederation) -> None:
        await here.until(lambda: len(here.rounds) >= 4)
        first = dict(here.pids)
        os.kill(first["client1"], signal.SIGSTOP)  # now no round can end
        os.kill(first["client2"], signal.SIGKILL)
        await here.until(lambda: "client2" in here.lost)
        await here.come_back("client2")
        assert here.pids["client2"] != first["client2"]
        anew = psutil.Process(here.pids["client2"])
        while len([link for link in anew.net_connections() if link.status == psutil.CONN_ESTABLISHED]) < 3:
            pass  # to the runner, and two to the edge server
        os.kill(first["client1"], signal.SIGCONT)

    came = run_live(whole, script=script)
    assert came.lost == {}
    participants = [one.metrics["participants"] for one in came.rounds]
    assert len(participants) == 12
    assert participants.count(3) >= 11  # one round at most was without it
    steps = {node.name: node.steps for node in came.nodes}
    assert (steps["edge1"], steps["client1"], steps["client3"]) == (12, 12, 12)
    served = total(came, "steps") - 2 * 12
    assert served in (10, 11, 12)
    assert steps["client2"] - served in (-1, 0)  # the gradient of one step may not have come, or not been kept
    assert steps["client2"] > 12 - 4  # more than one that begins anew could have


@pytest.mark.promise(
    "Nodes", "all clients of one of two edge servers are killed", "that edge server ends, the other goes on"
)
def test_an_edge_server_whose_clients_are_all_gone_ends_and_the_other_goes_on():
    went_off = mine(node="client2", moment="train", after=STEPS)
    came = run_live(federation("psl", 2, edges=2, job=went_off))
    assert came.lost == {"client2": "client2 was killed by SIGKILL"}
    assert [one.round for one in came.rounds if one.edge == 0] == [0, 1]
    assert came.rounds[-1].edge == 1
    assert {node.name: node.steps for node in came.nodes} == {"cloud": 0, "edge1": 6, "edge2": 3, "client1": 6}


def test_clients_that_move_train_live_as_in_one_process(tmp_path):
    """The links that they come by are shaped as their first ones are."""
    moves = (ClientMove(0, 1, 1), ClientMove(2, 1, 0))
    link = Duplex(up=LINK, down=LINK)
    live_one, own = (
        federation("sflv1", edges=2, moves=moves, test_every=2, folder=str(tmp_path / name)) for name in "ab"
    )
    came = run_live(live_one, link, link, clients_per_process=2, shaping="emulated")
    expected = run_in_process(own)
    assert_equal(came, expected)
    assert_same_state(tmp_path / "a", tmp_path / "b", 3)
    handed = {node.name: [sent["handover"] for sent in node.sent.values() if "handover" in sent] for node in came.nodes}
    assert sum(one.payload_bytes for one in handed["edge1"] + handed["edge2"]) == sum(
        one.payload_bytes for one in handed["cloud"]
    )
    assert sum(one.messages for one in handed["cloud"]) == 2
    for node in came.nodes:
        for link in node.connections:  # of two goodbyes that cross, one may find nobody
            assert link.written_bytes - link.acked_bytes in (0, 4)


async def test_edge_servers_that_a_client_visits_hear_that_it_lives_again_and_that_it_has_ended(monkeypatch):
    whole = federation("sflv1", edges=3, moves=(ClientMove(1, 1, 0),))
    here = LiveFederation(whole, Shaping((), (), 0, ()))
    heard: list[tuple] = []

    async def tell(process: str, message: Any) -> None:
        heard.append((process, type(message), getattr(message, "client", "")))

    async def start(crews: dict) -> None:
        here.pids |= {"client2": 7}

    monkeypatch.setattr(here, "send", tell)
    monkeypatch.setattr(here, "_start", start)
    here.lost, here.pids = {"client2": "killed"}, {"client2": 6}
    await here.come_back("client2")
    for client in ("client2", "client1"):
        await here.heard("client1+1", ClientFinished(client=client))
    there = [(edge, "client2") for edge in ("edge2", "edge1")]
    assert heard[:2] == [(edge, ClientReturned, client) for edge, client in there]
    assert heard[2] == ("client2.0", Begin, "")
    assert heard[3:] == [(edge, ClientFinished, client) for edge, client in (*there, ("edge1", "client1"))]


async def test_the_death_of_the_last_client_is_a_failure_while_a_server_is_at_work():
    here = LiveFederation(federation(clients=1), Shaping((), (), 0, ()))
    here._crews, here.ended, died = {"client1": ("client1",)}, {"client1"}, RunError("it died", weight=2)
    with pytest.raises(RunError, match="no client is left: it died"):
        await here.gone("client1", died)
    here.reported.add("edge1")
    await here.gone("client1", died)
    assert here.lost == {"client1": "it died"}


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.promise(
    "Nodes", "a client is killed as it moves to another edge server", "it is counted once; the run ends"
)
def test_a_client_killed_in_the_middle_of_its_move_is_counted_once(back, monkeypatch):
    """Its new edge server stops at its first step; once its last one has reported the next round, it is between them.

    One that comes back, without a state, finds that its first server has ended and ends.
    """
    monkeypatch.setattr(run, "SILENCE_S", 60.0)
    stop = mine(node="edge2", moment="train", effect="stop")
    whole = federation("sflv1", edges=2, rounds=3, cloud_every=9, moves=(ClientMove(1, 1, 1),), job=stop)

    async def script(here: LiveFederation) -> None:
        await here.until(lambda: sum(one.edge == 0 for one in here.rounds) >= 2)
        os.kill(here.pids["client2"], signal.SIGKILL)
        await here.until(lambda: "client2" in here.lost)
        if back:
            await here.until(lambda: "edge1" in here.reported)
            await here.come_back("client2")
            await here.until(lambda: any(process.startswith("client2.") for process in here.reported))
        os.kill(here.pids["edge2"], signal.SIGCONT)

    came = run_live(whole, script=script)
    assert came.lost == ({} if back else {"client2": "client2 was killed by SIGKILL"})
    participants = {(one.edge, one.round): one.metrics["participants"] for one in came.rounds}
    assert participants == {(0, 0): 2, (0, 1): 1, (0, 2): 1, (1, 0): 1, (1, 1): 1, (1, 2): 1}
    steps = {node.name: node.steps for node in came.nodes}
    assert steps.pop("client2", None) == (0 if back else None)
    assert steps == {"cloud": 0, "edge1": 4 * STEPS, "edge2": 3 * STEPS, "client1": 3 * STEPS, "client3": 3 * STEPS}
    assert total(came, "steps") == total(came, "count") / BATCH == 7 * STEPS
    assert answered(came) == 7 * TESTS
    edge1 = next(node for node in came.nodes if node.name == "edge1")
    assert edge1.sent["next"]["handover"].messages == 1


def error_of(*arguments: Any, **more: Any) -> str:
    with pytest.raises(RunError) as raised:
        run_live(*arguments, **more)
    assert nodes_left() == []
    see(str(raised.value))
    return str(raised.value)


@pytest.mark.parametrize(
    ("killed", "said"),
    [
        ("edge2", "edge2 was killed by SIGKILL"),
        ("cloud", "cloud was killed by SIGKILL"),
        ("emulator", "the link emulator ended: the emulator ended with status -9; see its log on stderr"),
    ],
)
@pytest.mark.promise(
    "Nodes",
    "an edge server, the cloud or the link emulator of a federation is killed",
    "the run ends within 3 s and names it",
)
def test_a_server_or_the_emulator_that_is_killed_is_named_within_three_seconds(killed, said):
    killed_at: list[float] = []

    async def script(here: LiveFederation) -> None:
        await here.until(lambda: bool(here.rounds))
        (emulator,) = [p.pid for p in psutil.Process().children() if "netem.emulate" in p.cmdline()]
        pids = {**here.pids, "emulator": emulator}
        os.kill(pids[killed], signal.SIGKILL)
        killed_at.append(time.monotonic())

    links = Duplex(up=LINK, down=LINK)
    whole = federation("psl", 2, edges=2, rounds=10_000)
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=NAMED_S) >= NAMED_S:
        assert error_of(whole, links, links, script=script, shaping="emulated") == said
        taken.append(time.monotonic() - killed_at.pop())
    assert min(taken) < NAMED_S, taken


@pytest.mark.parametrize("hung", ["client2", "edge1"])
@pytest.mark.promise(
    "Nodes",
    "a client or an edge server of a federation is stopped",
    "without the client the others finish; of the edge server the run ends and names it",
)
def test_a_client_that_hangs_is_missed_and_a_server_is_named(hung, monkeypatch):
    monkeypatch.setattr(run, "SILENCE_S", 4.0)
    silent = f"{hung} has not been heard of for 4 s"
    whole = federation("sflv1", job=mine(node=hung, moment="train", after=STEPS + 1, effect="stop"))
    if hung == "edge1":
        assert error_of(whole) == silent
    else:
        came = run_live(whole)
        assert came.lost == {hung: silent}
        see(silent)
        assert {node.name: node.steps for node in came.nodes} == {"edge1": 3 * 6 - 2, "client1": 6, "client3": 6}


@pytest.mark.parametrize(
    ("job", "error"),
    [
        ({"payload_bytes": 1000}, r"client\d lost edge1: .*\d bytes, up to 1000 accepted"),
        (mine(node="client2", moment="train", effect="memory"), "client2: RuntimeError: out of memory: .*"),
        ({"data": DataSpec(name="cifar10")}, "client.: DataError: cifar10: .*"),
        (mine(node="client1", moment="build"), "no client is left: client1 was killed by SIGKILL"),
    ],
)
def test_whatever_fails_ends_the_run_in_one_line(job, error):
    clients = 1 if error.startswith("no client") else 2
    assert re.fullmatch(error, said := error_of(federation(clients=clients, job=job))), said


def test_what_cannot_run_is_refused_before_anything_does(monkeypatch):
    monkeypatch.setattr(run, "launcher", lambda: pytest.fail("it began all the same"))
    for more in ({"links": [Duplex()]}, {"clients_per_process": 0}, {"shaping": "kernel"}):
        with pytest.raises(ValueError, match=r"links|kernel"):
            run_live(federation(), **more)


def test_an_interrupted_run_leaves_nothing():
    async def script(here: LiveFederation) -> None:
        await here.until(lambda: bool(here.rounds))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_live(federation(clients=2, rounds=10_000), script=script)
    assert nodes_left() == []
