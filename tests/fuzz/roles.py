"""Roles at work, for messages that they do not expect: any kind, from any side, with any numbers."""

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import torch

from nodes.errors import ModelError, ProtocolError
from nodes.federated.client import Client
from nodes.federated.client_worker import ClientData
from nodes.federated.cloud import Cloud
from nodes.federated.edge.server import EdgeServer
from nodes.inference.server import ServiceServer
from nodes.inference.ue import ServiceUe
from nodes.model.layer_range import layer_range
from nodes.runtime.actions import Role
from nodes.spec.federation import ClientMove, Federation, SchemeSpec
from nodes.spec.job import Control, Job
from nodes.spec.policy import LinkSpec, Policy
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.splitting.link_estimates import LinkEstimates
from nodes.training.migration.roles import RelayMigration, UeMigration
from nodes.training.migration.split_control import StepBytes, TrainingControl
from nodes.training.relay import Relay
from nodes.training.source import TrainingSchedule
from nodes.training.ue import Ue
from nodes.wire.codec import DTYPES, Decoder, FrameError, encode
from nodes.wire.messages import (
    Activation,
    AnyMessage,
    Begin,
    ChangeServer,
    ClientHello,
    ClientModel,
    ClientUpdate,
    EdgeUpdate,
    GlobalModel,
    Gradient,
    Handover,
    LinkState,
    Parameters,
    Peer,
    Proposal,
    Result,
    RoundTested,
    RoundTrained,
    Route,
    Shutdown,
    SplitChange,
    SplitCost,
    TaskLost,
    TestRound,
    TrainRound,
)

X = {"x": torch.zeros(2, 3)}
SEEDS: tuple[AnyMessage, ...] = (
    Activation(assignment=0, step=0, train=True, done=1, tensors=X, labels=torch.tensor([1, 2])),
    Gradient(assignment=0, step=0, metrics={"loss": 1.0, "correct": 1.0, "count": 2.0}, tensors=X),
    Result(assignment=0, step=0, metrics={"ended_s": 1.0, "done.mec": 2.0}, tensors=X),
    SplitCost(assignment=1, node="mec", tensors={"cost_s": torch.zeros(4)}),
    SplitChange(assignment=1, splits=(2,)),
    Proposal(step=0, splits=(1,)),
    Parameters(assignment=1, start=1, stop=2, tensors=X),
    TaskLost(step=0),
    ClientHello(round=0, begun=0, samples=20, mean_samples=20.0),
    TrainRound(round=0, steps=2),
    TestRound(round=0),
    RoundTrained(round=0, loss=1.0, correct=1.0, count=2.0),
    RoundTested(round=0, correct_by_class=torch.tensor([1, 0]), total_by_class=torch.tensor([1, 1])),
    ClientUpdate(round=0, samples=20, tensors=X),
    ClientModel(round=0, tensors=X),
    EdgeUpdate(round=0, samples=20, server=X, client=X),
    GlobalModel(round=0, server=X),
    Handover(round=1, client=0, to="edge2", here=True),
    ChangeServer(server="edge2", round=1),
    LinkState(upper="ue", link=LinkSpec(rate_bps=1e6)),
    Route(nodes=(Peer("cloud"),)),
    Shutdown(),
)
LAYER_S = (0.1, 0.2, 0.3)
POLICY = Policy()


def deliver(job: Job, messages: Sequence[AnyMessage]) -> None:
    """Give ``messages`` in turn, from each side, to a fresh one of each role, which may refuse them."""
    for make in (_relay, _moving_ue, _ue, _service_server, _service_ue, _edge_server, _client, _cloud):
        for sender in ("previous", "next", "client1", "edge1"):
            role = make(job)
            with suppress(ProtocolError, ModelError):
                for message in messages:
                    role.receive(sender, message, 1.0)


def _control(job: Job, index: int) -> TrainingControl:
    link = LinkSpec(rate_bps=1e6)
    sizes = StepBytes([100, 50, 20, 0], [0, 50, 20, 0], [10, 20, 30], [True] * 4)
    return TrainingControl(Control(layer_s=(LAYER_S,) * 2, links={0: (link,)}), index, sizes, "ue")


def _relay(job: Job) -> Role:
    held = layer_range((1,), 1, 3)
    return Relay(held, end=True, migration=RelayMigration(held, True, (1,), 3, _control(job, 1)))


def _schedule() -> TrainingSchedule:
    return TrainingSchedule(train_steps=2, test_batches=2, epochs=1, microbatches=1, window=4)


def _ue(job: Job) -> Role:
    return _after(Ue(_schedule(), alone=False), "runner", Begin())


def _moving_ue(job: Job) -> Role:
    return _after(Ue(_schedule(), alone=False, migration=UeMigration((1,), 3, {}, _control(job, 0))), "runner", Begin())


def _service_server(job: Job) -> Role:
    estimates = LinkEstimates((100, 50, 20, 0), {"ue": LinkSpec(rate_bps=1e6)}, POLICY)
    role = _after(ServiceServer("mec", SplitControl(LAYER_S, POLICY), estimates), "runner", Route(nodes=()))
    role.joined("previous", "ue", 0.0)
    return role


def _service_ue(job: Job) -> Role:
    role = ServiceUe("ue", SplitControl(LAYER_S, POLICY), Pace(tasks=3))
    _after(role, "runner", Route(nodes=(Peer("mec"),)), Begin())
    role.joined("next", "mec", 0.0)
    return role


def _federation(job: Job) -> Federation:
    moves = (ClientMove(0, 1, 1),)
    return Federation(job=job, scheme=SchemeSpec(), clients=2, edges=2, rounds=2, local_steps=2, moves=moves)


def _edge_server(job: Job) -> Role:
    role = EdgeServer(_federation(job), 0, Peer("cloud"))
    role.receive("runner", Begin(), 0.0)
    role.joined("next", "cloud", 0.0)
    role.joined("client1", "client1", 0.0)
    return _after(role, "client1", ClientHello(round=0, begun=0, samples=20, mean_samples=20.0))


def _client(job: Job) -> Role:
    role = Client(_federation(job), 0, [Peer("edge1"), Peer("edge2")], ClientData(20, 20.0, 2))
    role.receive("runner", Begin(), 0.0)
    role.joined("next", "edge1", 0.0)
    return _after(role, "next", TrainRound(round=0, steps=2))


def _cloud(job: Job) -> Role:
    role = Cloud(_federation(job))
    role.joined("edge1", "edge1", 0.0)
    return _after(role, "runner", Begin())


def _after(role: Role, sender: str, *messages: AnyMessage) -> Role:
    for message in messages:
        role.receive(sender, message, 0.0)
    return role


def drawn_messages(rng: random.Random) -> list[AnyMessage]:
    """At most four of the seeds with some fields drawn anew, as far as their types allow."""
    drawn = []
    for message in rng.choices(SEEDS, k=rng.randint(1, 4)):
        fields = {name: getattr(message, name) for name in message.__struct_fields__}
        changed = {name: _other(value, rng) for name, value in fields.items() if rng.random() < 0.3}
        with suppress(FrameError):  # else no node would receive it
            made = encode(msgspec.structs.replace(message, **changed))
            drawn += [one.message for one in Decoder().feed(b"".join(made))]
    return drawn


def _other(value: Any, rng: random.Random) -> Any:  # noqa: PLR0911 (one a type)
    match value:
        case bool():
            return rng.random() < 0.5
        case int():
            return rng.choice((0, 1, 2, 3, 7, 1 << 20, (1 << 48) - 1))
        case float():
            return rng.choice((0.0, -1.0, 0.5, 1e9, 1e300))
        case str():
            return rng.choice(("", "ue", "mec", "edge1", "edge2", "client2", "nobody"))
        case torch.Tensor() if value.dtype is torch.int64:
            return torch.randint(-5, 5, (rng.randint(0, 3),))
        case torch.Tensor():
            shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
            return torch.rand(shape).to(rng.choice(list(DTYPES.values())))
        case dict():
            kept = {rng.choice((key, "other", "")): _other(one, rng) for key, one in value.items()}
            return kept if rng.random() < 0.8 else {}
        case LinkSpec():
            return LinkSpec(rate_bps=rng.choice((None, 0.0, 1.0, 1e18)), delay_s=rng.choice((0.0, 1e9)))
        case tuple() if value and all(isinstance(one, int) for one in value):
            return tuple(rng.choice((0, 1, 2, 3, 4, 1 << 40)) for _ in range(rng.randint(0, 4)))
        case _:
            return value
