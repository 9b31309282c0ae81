"""What the UE and the hops decide: events in, actions expected out; no loop runs and nothing is computed."""

import itertools
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nodes.errors import ProtocolError
from nodes.model.layer_range import layer_range
from nodes.runtime.actions import Finish, Send
from nodes.spec.job import Job, StageSpec
from nodes.training import segment
from nodes.training.relay import Relay
from nodes.training.segment import Backward, Forward, Segment
from nodes.training.source import Evaluate, Infer, Score, Train, TrainingSchedule
from nodes.training.ue import Ue
from nodes.wire.codec import encode, wire_size
from nodes.wire.messages import Activation, Begin, Gradient, Heartbeat, Result, ServeMember, Shutdown
from nodes.wire.outgoing import LateNumber

BEGIN = Begin()


def activation(step=0, microbatch=0, train=True):
    return Activation(assignment=0, step=step, microbatch=microbatch, train=train, tensors={})


def gradient(step=0, microbatch=0, loss=2.0):
    metrics = {"loss": loss, "correct": 1.0, "count": 4.0}
    return Gradient(assignment=0, step=step, microbatch=microbatch, metrics=metrics, tensors={})


def result(step=0):
    return Result(assignment=0, step=step)


def score(step=0, correct=3.0, samples=4.0, member=0):
    return Score(step, member, correct, samples)


def make_ue(**changes):
    settings = {"train_steps": 2, "test_batches": 2, "epochs": 1, "microbatches": 1, "window": 4}
    return Ue(TrainingSchedule(**settings | changes), alone=False)


def test_the_ue_trains_step_by_step_then_tests_then_reports_and_ends():
    ue = make_ue()
    assert ue.receive("runner", BEGIN, 0.0) == [Train(0, 0, 0, None)]
    assert ue.computed(sent := activation(), 1.0) == [Send("next", sent)]
    assert ue.receive("next", back := gradient(), 2.0) == [Backward(back)]
    assert ue.computed(gradient(loss=3.0), 3.0) == [Train(0, 1, 0, 1)]  # the last step saves
    assert ue.computed(gradient(step=1, loss=1.0), 5.0) == [Infer(0, 0), Infer(1, 0)]
    assert ue.computed(activation(train=False), 6.0)[0].to == "next"
    assert ue.receive("next", came := result(), 7.0) == [Evaluate(came)]
    assert ue.computed(score(0), 8.0) == []
    report, shutdown, finish = ue.computed(score(1, correct=1.0), 9.5)
    assert report.to == "runner"
    assert report.message.metrics == {
        "epoch": 1.0,
        "loss": 2.0,
        "train_accuracy": 0.25,
        "test_accuracy": 0.5,
        "trained_samples": 8.0,
        "tested_samples": 8.0,
        "train_s": 5.0,
        "test_s": 4.5,
        "train_up_bytes": sum(map(len, encode(sent))),
        "train_down_bytes": sum(map(len, encode(back))),
    }
    assert report.message.losses.tolist() == [3.0, 1.0]
    assert report.message.step_s.tolist() == [3.0, 2.0]
    assert report.message.latency_s.tolist() == [3.0, 4.5]  # both began at 5
    assert shutdown.to == "next"
    assert isinstance(shutdown.message, Shutdown)
    assert finish == Finish()


def test_a_manager_switches_members_request_by_request_and_ends():
    ue = make_ue(epochs=0, train_steps=0, test_batches=3, window=2, managed=True)
    assert ue.receive("runner", BEGIN, 0.0) == [Infer(0, 0), Infer(1, 0)]
    assert ue.computed(score(0), 1.0) == [Infer(2, 0)]
    assert ue.computed(score(1), 1.0) == []
    (report,) = ue.computed(score(2), 2.0)  # and waits
    assert report.to == "runner"
    assert ue.receive("runner", ServeMember(member=2), 5.0) == [Infer(0, 2), Infer(1, 2)]
    assert ue.receive("runner", ServeMember(member=1), 5.5) == []  # two requests are under way
    assert ue.computed(score(0, correct=4.0, member=2), 6.0) == [Infer(2, 1)]
    assert ue.computed(score(1, correct=2.0, member=2), 6.0) == []
    (report,) = ue.computed(score(2, correct=1.0, member=1), 7.0)
    served = {name: value for name, value in report.message.metrics.items() if name.startswith("member")}
    assert served == {"member2.samples": 8, "member2.accuracy": 0.75, "member1.samples": 4, "member1.accuracy": 0.25}
    shutdown, finish = ue.receive("runner", Shutdown(), 8.0)
    assert (shutdown.to, type(shutdown.message), finish) == ("next", Shutdown, Finish())


def test_the_next_step_waits_for_all_microbatches():
    ue = make_ue(microbatches=3)
    assert ue.receive("runner", BEGIN, 0.0) == [Train(0, 0, m, None) for m in range(3)]
    assert ue.computed(gradient(0, 0, 0.5), 1.0) == []
    assert ue.computed(gradient(0, 1, 0.5), 2.0) == []
    assert ue.computed(gradient(0, 2, 1.0), 3.0) == [Train(0, 1, m, 1) for m in range(3)]
    assert ue.history[0].losses == [2.0]


class Computing:
    """A number that notes when it is waited for."""

    is_cuda = False

    def __init__(self, value: float, waited: list[float]) -> None:
        self.value, self.waited = value, waited

    def detach(self) -> "Computing":
        return self

    def to(self, device: str, non_blocking: bool) -> "Computing":
        return self

    def __float__(self) -> float:
        self.waited.append(self.value)
        return self.value


def test_numbers_that_a_gpu_still_computes_are_waited_for_a_step_late():
    waited: list[float] = []

    def step(loss: float, last: bool = False) -> Gradient:
        scores = {"loss": loss, "correct": 0.5} if last else {"loss": LateNumber(Computing(loss, waited))}
        return Gradient(assignment=0, step=0, metrics={"count": 4.0, **scores}, tensors={})

    ue = make_ue(train_steps=3, test_batches=0)
    ue.receive("runner", BEGIN, 0.0)
    seen = []
    for loss in (3.0, 2.0):
        ue.computed(step(loss), 1.0)
        seen.append(list(waited))
    assert seen == [[], [3.0]]
    (report, *_) = ue.computed(step(1.0, last=True), 2.0)
    assert waited == [3.0, 2.0]
    assert report.message.losses.tolist() == [3.0, 2.0, 1.0]
    assert report.message.metrics["trained_samples"] == 12.0


def test_a_late_number_has_the_size_of_a_float():
    sizes = [
        wire_size(Gradient(assignment=0, step=0, metrics={"loss": loss}, tensors={}))
        for loss in (0.5, LateNumber(torch.tensor(0.5)))
    ]
    assert sizes[0] == sizes[1]


def test_epochs_follow_each_other_and_begin_where_told():
    ue = make_ue(epochs=5, start_epoch=3, train_steps=1, test_batches=0)
    assert ue.receive("runner", BEGIN, 0.0) == [Train(3, 0, 0, 4)]
    report, train = ue.computed(gradient(), 1.0)
    assert report.message.metrics["epoch"] == 4
    assert train == Train(4, 0, 0, 5)
    assert [type(action) for action in ue.computed(gradient(), 1.0)] == [Send, Send, Finish]


@pytest.mark.parametrize("start", [2, 3])
def test_nothing_is_done_where_all_epochs_are_done(start):
    actions = make_ue(epochs=2, start_epoch=start).receive("runner", BEGIN, 0.0)
    assert [type(action) for action in actions] == [Send, Finish]


def test_no_epochs_only_test():
    ue = make_ue(epochs=0, test_batches=1)
    assert ue.receive("runner", BEGIN, 0.0) == [Infer(0, 0)]
    assert ue.computed(score(0), 1.0)[0].message.metrics["test_accuracy"] == 0.75


def test_a_ue_alone_tells_nobody_to_end():
    ue = Ue(TrainingSchedule(train_steps=0, test_batches=1, epochs=0, microbatches=1, window=1), alone=True)
    ue.receive("runner", BEGIN, 0.0)
    assert [type(action) for action in ue.computed(score(0), 1.0)] == [Send, Finish]


@given(
    window=st.integers(1, 5),
    batches=st.integers(1, 12),
    epochs=st.integers(0, 2),
    choices=st.lists(st.integers(0, 2)),
)
def test_the_window_is_never_exceeded_whatever_comes_first(window, batches, epochs, choices):
    """A worker, a line down and a line back, each first in, first out; which moves next is arbitrary."""
    ue = make_ue(test_batches=batches, window=window, epochs=epochs, train_steps=1)
    work, lines, ended = deque(), (deque(), deque()), False
    in_flight, scored, fullest = set(), [], 0
    choose = itertools.chain(choices, itertools.cycle(range(3)))

    def act(actions):
        nonlocal ended
        for action in actions:
            match action:
                case Infer(batch=number):
                    in_flight.add(number)
                    work.append(activation(number, train=False))
                case Train(batch=step):
                    assert not in_flight
                    work.append(activation(step))
                case Backward(gradient=reply):
                    work.append(reply)
                case Evaluate(result=reply):
                    work.append(score(reply.step))
                case Send("next", Activation() as message):
                    lines[0].append(message)
                case Finish():
                    ended = True

    act(ue.receive("runner", BEGIN, 0.0))
    while not ended:
        assert work or lines[0] or lines[1], "nothing is under way, yet the UE has not ended"
        match next(choose):
            case 0 if work:
                reply = work.popleft()
                if isinstance(reply, Score):
                    in_flight.remove(reply.step)
                    scored.append(reply.step)
                act(ue.computed(reply, 0.0))
            case 1 if lines[0]:
                message = lines[0].popleft()
                lines[1].append(gradient(message.step) if message.train else result(message.step))
            case 2 if lines[1]:
                act(ue.receive("next", lines[1].popleft(), 0.0))
        fullest = max(fullest, len(in_flight))
    assert fullest == min(window, batches)
    assert scored == [*range(batches)] * max(1, epochs)


def test_a_result_out_of_turn_is_a_protocol_error():
    ue = make_ue(epochs=0)
    ue.receive("runner", BEGIN, 0.0)
    with pytest.raises(ProtocolError, match="result of test batch 1 before that of 0"):
        ue.computed(score(1), 1.0)


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        ("runner", gradient()),
        ("next", activation()),
        ("next", Shutdown()),
        ("next", BEGIN),
        ("previous", result()),
    ],
)
def test_what_the_ue_does_not_expect_is_a_protocol_error(sender, message):
    with pytest.raises(ProtocolError, match=f"unexpected {type(message).__name__} from {sender}"):
        make_ue().receive(sender, message, 0.0)
    with pytest.raises(ProtocolError, match="unexpected Heartbeat"):
        make_ue().computed(Heartbeat(node="x"), 0.0)


# A chain of five: the first has no layers, the second and the fourth have, the third and the fifth have none.
PLACES = [layer_range((0, 3, 3, 7), index, 7) for index in range(5)]


def test_places_say_who_works_where_and_which_stage_is_whose():
    assert [held.relays for held in PLACES] == [False, False, True, False, True]
    assert [held.last for held in PLACES] == [False, False, False, True, False]
    assert [held.inbound for held in PLACES] == [None, 0, None, 2, None]
    assert [held.outbound for held in PLACES] == [0, 2, None, None, None]


@pytest.mark.parametrize("splits", [(8,), (5, 3)])
def test_places_beyond_the_model_are_refused(splits):
    with pytest.raises(ValueError, match="splits"):
        layer_range(splits, 0, 7)


@pytest.mark.parametrize("index", [1, 3])
def test_a_hop_with_layers_computes(index):
    hop = Relay(PLACES[index], end=False)
    assert hop.receive("previous", message := activation(), 0.0) == [Forward(message)]
    assert hop.receive("next", message := gradient(), 0.0) == [Backward(message)]
    assert hop.computed(message := activation(), 0.0) == [Send("next", message)]
    assert hop.computed(message := gradient(), 0.0) == [Send("previous", message)]
    assert hop.computed(message := result(), 0.0) == [Send("previous", message)]


def test_a_hop_without_layers_makes_no_network(monkeypatch):
    class MadeError(Exception):
        pass

    def made(*_):
        raise MadeError

    monkeypatch.setattr(segment, "build_model", made)
    job = Job(
        model="nodes.zoo.small_cnn:small_cnn",
        input_shape=(3, 32, 32),
        classes=10,
        nodes=("ue", "relay", "mec", "cloud"),
        splits=(5, 5, 16),
        stages=(StageSpec(),) * 3,
    )
    for index in (0, 2):
        with pytest.raises(MadeError):
            Segment(job, index)
    for index in (1, 3):
        relay = Segment(job, index)
        assert relay.place.relays
        assert (relay.layers, relay.names, relay.state()) == (16, [], {})


def test_a_hop_without_layers_passes_all_on_as_it_came():
    hop = Relay(PLACES[2], end=False)
    tensors = {"x": torch.ones(2)}
    for sender, to, message in [
        ("previous", "next", Activation(assignment=0, step=1, train=True, tensors=tensors)),
        ("next", "previous", Gradient(assignment=0, step=1, tensors=tensors)),
        ("next", "previous", result()),
    ]:
        (action,) = hop.receive(sender, message, 0.0)
        assert action.to == to
        assert action.message is message


def test_a_hop_computes_before_it_hears_of_the_end_and_tells_it_on():
    hop = Relay(PLACES[1], end=False)
    assert hop.receive("previous", end := Shutdown(), 0.0) == [Send("next", end), Finish()]
    assert Relay(PLACES[4], end=True).receive("previous", end, 0.0) == [Finish()]


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        ("previous", gradient()),
        ("previous", result()),
        ("next", activation()),
        ("next", Shutdown()),
        ("runner", result()),
    ],
)
@pytest.mark.parametrize("index", [1, 2])
def test_what_a_hop_does_not_expect_is_a_protocol_error(index, sender, message):
    with pytest.raises(ProtocolError, match=f"unexpected {type(message).__name__} from {sender}"):
        Relay(PLACES[index], end=False).receive(sender, message, 0.0)
