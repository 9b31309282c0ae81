"""Many clients: each scheme against a plain loop, and those that must equal each other, bit for bit."""

import math

import pytest
import torch
from federations import JOB, PlainEpsl, PlainLoop, assert_close, drawn, make_federation, same, trained
from msgspec.structs import replace
from oracle import Unsplit

from nodes.data.loading import load_data
from nodes.data.partitioning import partition
from nodes.errors import DataError, ModelError
from nodes.federated.client_worker import ClientWorker, pictures_of
from nodes.federated.edge.worker import EdgeWorker
from nodes.federated.in_process import run_in_process, workers
from nodes.federated.schemes import SCHEMES, build_scheme, scheme_of
from nodes.model.factory import build_model
from nodes.spec.federation import ALPHA, Absence, ClientMove, Federation, Partition, SchemeSpec
from nodes.spec.job import DataSpec, OptimizerSpec
from nodes.training.in_process import run_in_process as run_chain
from nodes.wire.messages import EdgeUpdate, Gradient

STILL = replace(JOB, model="user_models:Still", splits=(2,))
LINEAR = replace(JOB, model="user_models:Still", splits=(3,))  # the server has a linear layer alone


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_client_trains_as_the_unsplit_network(scheme):
    job = replace(
        JOB,
        data=DataSpec(train_samples=24, test_samples=9, augment=True),
        optimizer=OptimizerSpec(lr=0.05, schedule="cosine"),
        epochs=2,
    )
    run = trained(make_federation(scheme, job, clients=1, local_steps=None))
    alone = replace(job, nodes=("all",), splits=(), stages=())
    chain = run_chain(alone)
    oracle = Unsplit(alone, load_data(job))
    losses = oracle.train()
    assert chain.losses == pytest.approx(losses)
    assert [one.metrics["loss"] for one in run.outcome.rounds] == [sum(losses[:3]), sum(losses[3:])]
    if scheme != "psl-async":  # whose clients test once, when all training is over
        assert sum(run.outcome.rounds[0].correct_by_class) / 9 == chain.epochs[0]["test_accuracy"]
    assert sum(run.outcome.rounds[1].correct_by_class) / 9 == chain.epochs[1]["test_accuracy"]
    assert same(run.states["client1"] | run.states["edge1"], oracle.model.state_dict())


@pytest.mark.parametrize("scheme", ["psl", "sflv1", "fl"])
def test_clients_and_servers_begin_with_the_weights_of_a_file(scheme, tmp_path):
    given = build_model(JOB.model, 10, JOB.input_shape, seed=8).state_dict()
    torch.save({"state_dict": given}, tmp_path / "w.pt")
    federation = make_federation(scheme, replace(JOB, weights=str(tmp_path / "w.pt")))
    made = workers(federation, load_data(JOB))
    server = made["edge1"][1].give(EdgeUpdate(round=0, samples=1)).server
    for name in federation.client_names:
        assert same(made[name][1].segment.state() | server, given)


def test_epsl_without_averaged_positions_is_psl():
    one, other = trained(make_federation("psl")), trained(make_federation("epsl"))
    assert all(same(one.states[name], other.states[name]) for name in one.states)
    assert one.outcome.rounds[-1].correct_by_class == other.outcome.rounds[-1].correct_by_class


def test_sfl_with_copies_is_fl():
    """Same local steps, and optimizers of single parameters: the copies' averages are the whole networks'."""
    one, other = trained(make_federation("sflv1")), trained(make_federation("fl"))
    for name in ("client1", "client2", "client3"):
        assert same(one.states[name] | one.states["edge1"], other.states[name])
    assert one.outcome.rounds[-1].correct_by_class == other.outcome.rounds[-1].correct_by_class


@pytest.mark.parametrize("scheme", ["sl", "sflv2", "psl", "psl-averaged"])
def test_schemes_equal_a_plain_loop(scheme):
    """Batch norm's buffers travel and are averaged with the rest; where parts are kept, so are they."""
    federation = make_federation(scheme, rounds=2)
    loop = PlainLoop(federation, load_data(federation.job))
    for _ in range(federation.rounds):
        if scheme == "sl":
            loop.round_in_turn()
        elif scheme == "sflv2":
            for client in (0, 1, 2, 0, 1, 2):
                loop.alone(client)
        else:
            loop.together()
            loop.together()
        if SCHEMES[scheme].client_parts == "aggregated":
            loop.average()
    expected = loop.states()
    if scheme == "sl":  # all test with the last one's
        expected |= dict.fromkeys(("client1", "client2"), expected["client3"])
    run = trained(federation)
    for name, state in run.states.items():
        if scheme in ("sl", "sflv2"):
            assert same(state, expected[name])
        else:
            assert_close(state, expected[name])


@pytest.mark.parametrize(("phi", "statistics"), [(0.3, "running"), (0.5, "running"), (0.5, "batch"), (1.0, "running")])
def test_epsl_equals_its_definition(phi, statistics):
    federation = make_federation("epsl", phi=phi, statistics=statistics)
    loop = PlainEpsl(federation, load_data(JOB))
    for _ in range(4):
        loop.together()
    run = trained(federation)
    for name, state in loop.states().items():
        assert_close(run.states[name], state)
    a = math.ceil(phi * 8)
    for metrics in (one.metrics for one in run.outcome.rounds):
        assert metrics["backward_samples"] == 2 * (a + 3 * (8 - a))
        assert metrics["forward_samples"] == 2 * (3 * 8 + a)
        assert metrics["shared_bytes"] == 2 * 3 * a * (4 * 8 * 8) * 4  # steps, clients, positions, floats at the cut
        assert metrics["updates"] == 2


def test_one_clients_epsl_by_the_statistics_of_its_batch_is_training_alone():
    """All its positions are averaged, with nobody's; the running statistics would make another step of it."""
    alone = trained(make_federation("psl", clients=1))
    for statistics, equal in (("batch", True), ("running", False)):
        run = trained(make_federation("epsl", clients=1, phi=1.0, statistics=statistics))
        for name, state in alone.states.items():
            buffers = [run.states[name][key].equal(state[key]) for key in state if key.endswith("num_batches_tracked")]
            assert all(buffers)
        weights = [(run.states[name][key], state[key]) for name, state in alone.states.items() for key in state]
        assert all(torch.allclose(*pair, rtol=1e-5, atol=1e-5) for pair in weights) == equal


def test_epsl_with_a_linear_server_returns_the_mean_of_psls_gradients():
    data = load_data(LINEAR)
    come = {}
    for scheme, options in (("psl", {}), ("epsl", {"phi": 1.0})):
        federation = make_federation(scheme, LINEAR, options=options)
        server = EdgeWorker(federation, 0)
        tasks = [ClientWorker(federation, client, data).train(0, 0) for client in range(3)]
        weights = (0.5, 0.2, 0.3)
        returned = server.joint(tasks, weights, 8 if options else 0).gradients
        come[scheme] = [next(iter(one.tensors.values())) for one in returned]
    mean = sum(weight * gradient for weight, gradient in zip(weights, come["psl"], strict=True))
    for gradient in come["epsl"]:
        torch.testing.assert_close(gradient, mean)


def test_psl_averaged_after_each_step_is_training_on_the_joint_batch():
    job = replace(STILL, data=DataSpec(train_samples=60, test_samples=9))
    federation = make_federation("psl-averaged", job, rounds=4, local_steps=1)
    data = load_data(job)
    central = Unsplit(replace(job, nodes=("all",), splits=(), stages=()), data)
    clients = drawn(federation, data)
    for _ in range(4):
        some = [next(one) for one in clients]
        central.step(torch.cat([pictures for pictures, _ in some]), torch.cat([labels for _, labels in some]))
    run = trained(federation)
    assert_close(run.states["client2"] | run.states["edge1"], central.model.state_dict())


@pytest.mark.parametrize("scheme", ["fl", "sflv1"])
def test_two_edge_servers_and_a_cloud_average_as_one_server_would(scheme):
    flat, two = trained(make_federation(scheme)), trained(make_federation(scheme, edges=2))
    for name in ("client1", "client2", "client3", "edge1"):
        assert_close(two.states[name], flat.states[name])
    assert same(two.states["edge2"], two.states["edge1"])


def test_the_cloud_averages_every_other_round():
    odd, even = (trained(make_federation("psl-averaged", edges=2, rounds=rounds, cloud_every=2)) for rounds in (3, 4))
    for name, other in (("edge1", "edge2"), ("client1", "client3")):
        assert not same(odd.states[name], odd.states[other])
        assert same(even.states[name], even.states[other])
    cloud = even.outcome.nodes[0]
    assert cloud.name == "cloud"
    assert {edge: sent["global-model"].messages for edge, sent in cloud.sent.items()} == {"edge1": 2, "edge2": 2}


def test_buffers_of_parts_that_are_kept_differ_and_those_of_shared_ones_do_not():
    psl, shared = trained(make_federation("psl")).states, trained(make_federation("psl-averaged")).states
    assert not torch.equal(psl["client1"]["1.running_mean"], psl["client2"]["1.running_mean"])
    assert torch.equal(shared["client1"]["1.running_mean"], shared["client2"]["1.running_mean"])


@pytest.mark.parametrize("scheme", ["psl", "fl", "sl"])
def test_a_new_worker_goes_on_from_the_state_that_was_kept(scheme, tmp_path):
    federation = make_federation(scheme, folder=str(tmp_path))
    data = load_data(federation.job)
    run = trained(federation)
    before = run.local.made["client3"][1]
    after = ClientWorker(federation, 2, data)
    assert after.data.begun == 4
    if scheme == "fl":  # what it gave, and will be handed the average
        after.segment.adopt(before.segment.state())
    assert same(after.segment.state(), before.segment.state())
    for worker in (before, after):  # momentum too
        reply = worker.train(2, 4)
        if scheme != "fl":
            worker.backward(Gradient(assignment=2, step=reply.step, tensors=dict(reply.tensors)))
    assert same(after.segment.state(), before.segment.state())


def test_a_kept_state_of_another_federation_is_named(tmp_path):
    federation = make_federation("psl", folder=str(tmp_path))
    data = load_data(JOB)
    trained(federation)
    other = replace(federation, job=replace(JOB, splits=(8,)))
    with pytest.raises(ModelError, match=r"client-1\.pt is no state of this client's part"):
        ClientWorker(other, 1, data)
    (tmp_path / "client-1.pt").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"client-1\.pt is no state of this client's part"):
        ClientWorker(federation, 1, data)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_each_picture_is_one_clients(kind):
    federation = make_federation("psl", partition=Partition(kind=kind, alpha=0.1 if kind == "dirichlet" else ALPHA))
    data = load_data(JOB)
    trains, tests = zip(*(pictures_of(federation, client, data) for client in range(3)), strict=True)
    for parts, whole in ((trains, data.train), (tests, data.test)):
        assert sum(map(len, parts)) == len(whole)
        assert torch.equal(
            torch.cat([torch.from_numpy(part.labels) for part in parts]).sort().values,
            torch.from_numpy(whole.labels).sort().values,
        )
    counts = sorted(map(len, trains))
    seen = [len(set(part.labels.tolist())) for part in trains]
    if kind == "iid":
        assert counts[-1] - counts[0] <= 1
    if kind == "shards":
        assert max(seen) <= 2 * 3  # a run of a sixth of ten classes meets three of them
        assert max(seen) < 10
    if kind == "dirichlet":
        assert min(counts) >= JOB.batch_size
        assert counts[-1] > counts[0] + 2


def test_clients_of_unequal_data_count_by_their_samples():
    federation = make_federation("psl", partition=Partition(kind="dirichlet", alpha=0.2), rounds=1)
    loop = PlainLoop(federation, load_data(JOB))
    assert len(set(loop.samples)) > 1
    for _ in range(2):
        loop.together()
    run = trained(federation)
    for name, state in loop.states().items():
        assert_close(run.states[name], state)


def test_too_few_pictures_for_a_batch_are_named():
    with pytest.raises(DataError, match="62 pictures for 9 clients, expected a batch of 8 each"):
        run_in_process(make_federation("psl", clients=9))
    labels = load_data(JOB).train.labels
    with pytest.raises(DataError, match="expected at least 8 each"):
        partition(labels, Partition(kind="dirichlet"), 9, 0, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"job": replace(JOB, nodes=("a",), splits=(), stages=())}, "a client and a server"),
        ({"edges": 4}, "edges: from 1"),
        ({"slowdowns": (0.5,)}, "none below 1"),
        ({"slowdowns": ()}, "one at least"),
        ({"local_steps": 0}, "local_steps"),
        ({"absences": (Absence(3, 1, 1.0),)}, "client 3"),
        ({"moves": (ClientMove(3, 1, 1),)}, r"moves: \[3, 1, 1\].*clients are 0 to 2, edge servers 0 to 1"),
        ({"moves": (ClientMove(0, 1, 2),)}, "edge servers 0 to 1"),
        ({"moves": (ClientMove(0, 2, 1),)}, "there are rounds 0 to 1 to begin at another"),
        ({"moves": (ClientMove(0, -1, 1),)}, "there are rounds 0 to 1"),
        ({"moves": (ClientMove(0, 1, 0),)}, "the client is at 0 then"),
        ({"moves": (ClientMove(0, 1, 1), ClientMove(0, 1, 0))}, "once a round at most"),
        ({"moves": (ClientMove(0, 1, 0),), "edges": 1}, "the client is at 0 then"),
        ({"moves": (ClientMove(0, 1, 1),), "edges": 5}, "as many as clients come to"),
    ],
)
def test_a_federation_that_does_not_fit_together_says_so(changes, said):
    with pytest.raises(ValueError, match=said):
        Federation(**{"job": JOB, "scheme": SchemeSpec(), "clients": 3, "edges": 2, "rounds": 2} | changes)


@pytest.mark.parametrize(
    ("scheme", "options", "expected"),
    [
        ("psl", {"phi": 0.5}, "psl cannot be made: .*phi"),
        ("epsl", {"phi": 1.5}, "phi 1.5: expected a share"),
        ("epsl", {"statistics": "mean"}, "statistics mean: expected one of running, batch"),
        ("psl-async", {"staleness": -1}, "staleness -1: expected"),
        ("psl-async", {"staleness_exponent": -0.1}, "staleness_exponent -0.1: expected"),
        ("pls", {}, "no scheme 'pls'.*'psl'.*; there are sl,"),
        ("nowhere:Scheme", {}, "nowhere"),
        ("user_schemes:no_scheme", {}, "made a dict, not a"),
        ("user_schemes:Unknown", {}, "server_parts is 'two', expected one of"),
        ("user_schemes:Hasty", {}, "clients that do not wait for each other keep their parts"),
    ],
)
def test_a_scheme_that_cannot_be_made_is_refused(scheme, options, expected):
    with pytest.raises(ValueError, match=expected):
        build_scheme(SchemeSpec(name=scheme, options=options))


@pytest.mark.parametrize(
    ("phi", "size", "expected"), [(0.0, 8, 0), (1.0, 8, 8), (0.5, 7, 4), (0.1, 64, 7), (0.07, 100, 7), (1e-3, 8, 1)]
)
def test_positions_are_rounded_up_but_not_by_how_floats_multiply(phi, size, expected):
    assert build_scheme(SchemeSpec(name="epsl", options={"phi": phi})).averaged_positions(size) == expected


def test_clients_that_do_not_wait_have_one_edge_server():
    with pytest.raises(ValueError, match=r"edges: scheme psl-async .* give one edge"):
        scheme_of(make_federation("psl-async", edges=2))
