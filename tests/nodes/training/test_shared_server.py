"""Many sources, one server: whose task is next, against a plain loop over networks; nothing runs here but memory."""

import pytest
import torch
from federations import own_order
from msgspec.structs import replace
from torch.nn import functional as F

from nodes.data.batching import batches, client_subset
from nodes.data.loading import load_data
from nodes.data.partitioning import partition_iid
from nodes.errors import ProtocolError
from nodes.model.factory import build_model
from nodes.runtime.actions import Finish, Send
from nodes.spec.job import DataSpec, Device, Job, OptimizerSpec, StageSpec
from nodes.training.in_process import run_in_process
from nodes.training.segment import Forward
from nodes.training.shared_server import SharedServer
from nodes.wire.messages import Activation, Gradient, Shutdown

JOB = Job(
    model="user_models:Still",
    input_shape=(3, 16, 16),
    classes=10,
    nodes=("ue", "cloud"),
    splits=(2,),
    stages=(StageSpec(),),
    data=DataSpec(train_samples=75, test_samples=31),
    optimizer=OptimizerSpec(lr=0.1),
    epochs=2,
    batch_size=8,
    threads=1,
    seed=3,
    sources=3,
)


def task(step: int, train: bool = True, save: int | None = None) -> Activation:
    return Activation(assignment=0, step=step, train=train, tensors={}, save=save)


def test_training_tasks_take_turns_and_others_do_not_wait():
    hub = SharedServer(("a", "b"))
    early, late, first = task(1), task(3), task(0)
    assert hub.receive("b", early, 0.0) == []
    assert hub.receive("b", late, 0.0) == []
    test = task(7, train=False)
    assert hub.receive("b", test, 0.0) == [Forward(test)]
    begun = hub.receive("a", first, 0.0)
    assert [action.message.step for action in begun] == [0, 1]
    replies = [Gradient(assignment=0, step=step, tensors={}) for step in (7, 0, 1)]
    assert [hub.computed(reply, 0.0) for reply in replies] == [
        [Send(to, reply)] for to, reply in zip("bab", replies, strict=True)
    ]


def test_the_servers_epoch_ends_with_the_last_sources():
    hub = SharedServer(("a", "b", "c"))
    saves = [
        action.message.save
        for source in "abc"
        for action in hub.receive(source, task("abc".index(source), save=4), 0.0)
    ]
    assert saves == [None, None, 4]


def test_the_end_is_that_of_all_sources_and_strangers_are_refused():
    hub = SharedServer(("a", "b"))
    assert hub.receive("b", Shutdown(), 0.0) == []
    assert hub.receive("a", Shutdown(), 0.0) == [Finish()]
    with pytest.raises(ProtocolError, match="unexpected Activation from c"):
        hub.receive("c", task(0), 0.0)


def test_shares_are_equal_disjoint_and_of_all():
    data = load_data(JOB).train
    shares = [client_subset(data, client, 3, seed=3) for client in range(3)]
    assert [len(one) for one in shares] == [25, 25, 25]
    expected = partition_iid(data.labels, 3, 3)
    for one, chosen in zip(shares, expected, strict=True):
        assert (one.images[list(range(25))] == data.images[chosen]).all()
    assert client_subset(data, 0, 1, seed=3) is data


def test_sources_train_one_server_as_a_plain_loop_would():
    torch.set_num_threads(1)
    found = run_in_process(JOB)
    data = load_data(JOB)
    models = [build_model(JOB.model, 10, JOB.input_shape, JOB.seed).train() for _ in range(3)]
    bodies = [model.body for model in models]  # two layers each source's own
    server = models[0].head

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)

    own, common = [sgd(body.parameters()) for body in bodies], sgd(server.parameters())
    losses = [[], [], []]
    for epoch in range(2):
        drawn = [
            batches(
                client_subset(data.train, k, 3, 3),
                8,
                seed=3,
                epoch=epoch,
                shuffle=False,
                augment=False,
                indices=own_order(3, epoch, k, 25),
                drop_last=True,
            )
            for k in range(3)
        ]
        for step in zip(*drawn, strict=True):
            for k, (pictures, labels) in enumerate(step):
                loss = F.cross_entropy(server(bodies[k](pictures)), labels)
                loss.backward()
                for optimizer in (own[k], common):
                    optimizer.step()
                    optimizer.zero_grad()
                losses[k].append(loss.item())
    assert found.losses == torch.tensor([loss for one in losses for loss in one]).tolist()
    assert [(epoch["source"], epoch["epoch"]) for epoch in found.epochs] == [(k, e) for k in range(3) for e in (1, 2)]
    assert [epoch["tested_samples"] for epoch in found.epochs] == [10] * 6
    assert [node.name for node in found.nodes] == ["ue1", "ue2", "ue3", "cloud"]
    assert found.nodes[-1].steps == 18
    assert found.nodes[-1].sent_downlink["gradient"].messages == 18


BAD = {
    "none": {"sources": 0},
    "of three nodes": {"nodes": ("ue", "mec", "cloud"), "splits": (1, 2), "stages": (StageSpec(), StageSpec())},
    "with microbatches": {"microbatches": 2},
    "with members": {"members": (1,)},
    "with a checkpoint": {"checkpoint": "here"},
    "too few devices": {"devices": (Device(slowdown=2.5),)},
}


@pytest.mark.parametrize("name", BAD)
def test_jobs_that_cannot_have_many_sources(name):
    with pytest.raises(ValueError, match=r"sources|devices"):
        replace(JOB, **BAD[name])
