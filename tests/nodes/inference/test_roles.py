"""What the nodes of an inference service decide: events in, actions out; no loop runs and nothing is computed."""

import pytest
import torch

from nodes.errors import ProtocolError
from nodes.inference.server import ServiceServer
from nodes.inference.ue import ServiceUe
from nodes.inference.whole_model import Forward, Start
from nodes.runtime.actions import Connect, Finish, Send, Wake
from nodes.spec.policy import LinkSpec, Policy
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.splitting.link_estimates import LinkEstimates
from nodes.wire.messages import (
    Activation,
    Begin,
    BeginUpdate,
    Gradient,
    LinkState,
    Peer,
    Replaced,
    Result,
    Route,
    Shutdown,
    SplitCost,
    SplitPoint,
    TaskLost,
    TaskReport,
)
from nodes.wire.split_costs import sci

ALWAYS = Policy()
LAYER_S = [1.0, 1.0, 1.0]
NEAR = [0.0, 0.0, 0.0, 0.0]  # costs of a neighbour that computes in no time, or of a link
FAR = [99.0, 99.0, 99.0, 0.0]


def hop(policy=ALWAYS, deliver=False, link=NEAR) -> ServiceServer:
    return ServiceServer("mec", SplitControl(LAYER_S, policy), lambda peer: lambda now, ahead_s: link, deliver)


def ue(deliver=False, **pace) -> ServiceUe:
    return ServiceUe("ue", SplitControl(LAYER_S, ALWAYS), Pace(**{"tasks": 9} | pace), deliver)


def task(step=0, done=0) -> Activation:
    return Activation(assignment=0, step=step, train=False, tensors={}, done=done)


def route(*names: str) -> Route:
    return Route(nodes=tuple(Peer(name) for name in names))


def result(step=0, **metrics: float) -> Result:
    return Result(assignment=0, step=step, metrics=metrics)


def costs_in(action: Send) -> list[float]:
    assert isinstance(action.message, SplitCost)
    return action.message.tensors["cost_s"].tolist()


def in_chain(member: ServiceServer | ServiceUe, costs=NEAR) -> ServiceServer | ServiceUe:
    """``member`` with a neighbour downstream that costs so much, and upstream unless it is the UE."""
    if isinstance(member, ServiceServer):
        member.joined("previous", "ue", 0.0)
    assert member.receive("runner", route("cloud", "beyond"), 0.0)[-1] == Connect(Peer("cloud"))
    member.joined("next", "cloud", 0.0)
    member.receive("next", sci(1, "cloud", costs), 0.0)
    return member


def test_a_hop_tells_upstream_what_it_costs_once_it_knows():
    mec = hop(link=[0.5, 0.4, 0.3, 0.0])
    assert mec.receive("runner", route("cloud"), 0.0) == []  # for whom?
    assert mec.joined("previous", "ue", 1.0) == [Connect(Peer("cloud"))]
    assert mec.joined("next", "cloud", 2.0) == []
    (told,) = mec.receive("next", sci(7, "cloud", [2.0, 1.5, 1.25, 0.0]), 3.0)
    assert told.to == "previous"
    assert told.message.assignment == 7
    assert told.message.node == "mec"
    assert costs_in(told) == pytest.approx([2.5, 1.9, 1.3, 0.0])


def test_a_hop_computes_as_far_as_its_own_split_says_and_hands_on():
    mec = in_chain(hop(), [9.0, 9.0, 0.5, 0.0])
    assert mec.receive("previous", came := task(4, 1), 1.0) == [Forward(came, 2)]
    assert mec.computed(gone := task(4, 2), 2.0) == [Send("next", gone)]
    assert mec.receive("previous", relayed := task(5, 2), 1.0) == [Send("next", relayed)]
    (back,) = mec.receive("next", result(4, **{"done.cloud": 3.0, "ended_s": 2.5}), 3.0)
    assert back.to == "previous"
    assert back.message.metrics == {"done.cloud": 3.0, "ended_s": 2.5, "done.mec": 2.0}


def test_where_the_model_ends_the_result_returns():
    mec = in_chain(hop(), FAR)
    assert mec.receive("previous", came := task(2, 1), 1.0) == [Forward(came, 3)]
    output = {"y": torch.ones(1)}
    (back,) = mec.computed(Activation(assignment=0, step=2, train=False, tensors=output, done=3), 6.5)
    assert back.to == "previous"
    assert back.message.metrics == {"ended_s": 6.5, "done.mec": 3.0}
    assert back.message.tensors is output


def test_a_result_that_is_to_be_delivered_goes_on_to_the_last_node():
    mec = in_chain(hop(deliver=True), FAR)
    assert mec.computed(gone := task(2, 3), 6.5) == [Send("next", gone)]
    last = hop(deliver=True)
    last.receive("runner", route(), 0.0)
    last.joined("previous", "mec", 0.0)
    (back,) = last.receive("previous", task(2, 3), 7.0)
    assert back.message.metrics == {"ended_s": 7.0, "done.mec": 3.0}


def test_tasks_wait_for_the_first_word_of_the_neighbour_downstream():
    mec = hop()
    mec.receive("runner", route("cloud"), 0.0)
    mec.joined("previous", "ue", 0.0)
    assert mec.receive("previous", one := task(0), 1.0) == []
    mec.joined("next", "cloud", 2.0)
    assert mec.receive("previous", two := task(1), 3.0) == []
    told, *gone = mec.receive("next", sci(1, "cloud", FAR), 4.0)
    assert isinstance(told.message, SplitCost)
    assert gone == [Forward(one, 3), Forward(two, 3)]


def test_who_is_last_begins_updates_and_computes_all():
    cloud = hop(Policy(period_s=2.0))
    connect, wake = sorted(cloud.receive("runner", route(), 1.0), key=lambda action: isinstance(action, Wake))
    assert (connect, wake) == (Connect(None), Wake(3.0, "update"))
    (told,) = cloud.joined("previous", "mec", 1.5)
    assert costs_in(told) == [3.0, 2.0, 1.0, 0.0]
    again, told = cloud.woke("update", 3.0)
    assert again == Wake(5.0, "update")
    assert told.message.assignment == 2
    assert cloud.receive("previous", came := task(0, 2), 4.0) == [Forward(came, 3)]
    (asked,) = cloud.receive("runner", BeginUpdate(number=33), 4.0)
    assert asked.message.assignment == 33


def test_only_the_last_begins_updates_but_all_look_at_their_links():
    link = [1.0] * 4
    mec = in_chain(hop(Policy(period_s=1.0, check_s=0.5, min_change=0.1), link=link))
    assert mec.woke("update", 1.0) == [Wake(2.0, "update")]
    assert mec.woke("check", 0.5) == [Wake(1.0, "check")]
    link[0] = 2.0
    again, told = mec.woke("check", 1.0)
    assert again == Wake(1.5, "check")
    assert costs_in(told) == [2.0, 1.0, 1.0, 1.0]


def test_an_estimate_is_asked_for_the_time_that_tasks_come_after_updates():
    asked = []

    def estimate(now, ahead_s):
        asked.append((now, ahead_s))
        return NEAR

    mec = ServiceServer("mec", SplitControl(LAYER_S, Policy(gap_tasks=2)), lambda peer: estimate)
    in_chain(mec)
    for now in (1.0, 2.0, 4.0):
        mec.receive("next", sci(1, "cloud", NEAR), now)
        mec.receive("previous", task(int(now)), now + now / 4)
    mec.receive("next", sci(1, "cloud", NEAR), 8.0)
    assert asked == [(0.0, 0.0), (1.0, 0.0), (2.0, 0.25), (4.0, 0.375), (8.0, 0.75)]


def test_what_the_runner_tells_of_a_link_is_told_upstream_at_once():
    links = LinkEstimates([1000, 500, 250, 0], {"ue": LinkSpec(rate_bps=8000.0)}, ALWAYS)
    mec = in_chain(ServiceServer("mec", SplitControl(LAYER_S, ALWAYS), links))
    (told,) = mec.receive("runner", LinkState(upper="ue", link=LinkSpec(rate_bps=4000.0, delay_s=1.0)), 1.0)
    assert costs_in(told) == [3.0, 2.0, 1.5, 0.0]  # what is to come costs nothing downstream
    assert mec.receive("runner", LinkState(upper="gnb", link=LinkSpec(rate_bps=1.0)), 2.0) == []  # not there yet
    assert costs_in(mec.joined("previous", "gnb", 3.0)[0])[0] == 8000.0


def test_what_transfers_take_is_the_links_rate_until_it_is_told_anew_or_forgotten():
    links = LinkEstimates(
        [10_000, 0], {"ue": LinkSpec(rate_bps=8e3, delay_s=1.0)}, Policy(rate_transfers=3, remember_s=5.0)
    )
    mec = ServiceServer("mec", SplitControl([1.0], ALWAYS), links)
    mec.joined("previous", "ue", 0.0)
    estimate = links("ue")
    assert estimate(0.0, 0.0)[0] == 11.0
    mec.carried("previous", 8552, 0.8552, 1.0)
    assert estimate(1.0, 0.0)[0] == pytest.approx(2.0)
    assert estimate(6.5, 0.0)[0] == 11.0
    mec.carried("previous", 8552, 0.8552, 7.0)
    mec.carried("next", 8552, 99.0, 7.0)
    links.set_link("ue", LinkSpec(rate_bps=16e3))
    assert estimate(7.0, 0.0)[0] == 5.0


def test_a_dead_neighbour_is_passed_by_and_upstream_learns_what_it_took_along():
    mec = in_chain(hop())
    mec.computed(task(4, 3 - 1), 1.0)
    connect, lost = mec.lost("next", 2.0)
    assert connect == Connect(Peer("beyond"))
    assert (lost.to, type(lost.message), lost.message.step) == ("previous", TaskLost, 4)
    assert mec.receive("previous", held := task(5, 0), 2.5) == []
    mec.joined("next", "beyond", 3.0)
    told, gone = mec.receive("next", sci(1, "beyond", FAR), 4.0)
    assert costs_in(told) == [3.0, 2.0, 1.0, 0.0]
    assert gone == Forward(held, 3)
    assert mec.receive("next", result(4), 5.0) == []  # from before; nobody waits for it


def test_a_neighbour_that_keeps_a_task_for_too_long_is_passed_by():
    mec = in_chain(hop(policy=Policy(patience_s=1.0)), costs=[0.5, 0.5, 0.5, 0.0])
    sent, wake = mec.receive("previous", task(step=4, done=0), 10.0)
    assert (sent.to, wake) == ("next", Wake(10.0 + 2 * 0.5 + 2 * 1.0, "overdue 1"))  # two nodes are downstream
    _, later = mec.receive("previous", task(step=5, done=0), 11.0)
    assert later.at == 11.0 + 2 * 2 * 0.5 + 2 * 1.0  # two tasks are under way
    assert mec.receive("next", result(step=4), 12.8)
    assert mec.woke(wake.why, wake.at) == []
    connect, lost = mec.woke(later.why, later.at - 1e-6)  # a timer may be early
    assert connect == Connect(Peer("beyond"))
    assert (lost.to, type(lost.message), lost.message.step) == ("previous", TaskLost, 5)


def test_with_nobody_left_a_hop_does_all_the_rest():
    mec = in_chain(hop(), [9.0, 0.0, 0.0, 0.0])
    assert mec.receive("previous", came := task(0, 0), 1.0) == [Forward(came, 1)]
    mec.lost("next", 1.5)
    assert mec.computed(on_the_way := task(0, 1), 2.0) == []  # nobody to hand it to now
    connect, told, gone = mec.lost("next", 3.0)  # nor could the next be reached
    assert connect == Connect(None)
    assert costs_in(told) == [3.0, 2.0, 1.0, 0.0]
    assert gone == Forward(on_the_way, 3)


def test_a_route_changes_once_no_task_is_on_the_old_one():
    mec = in_chain(hop(), [9.0, 0.0, 0.0, 0.0])
    mec.computed(task(0, 1), 1.0)
    assert mec.receive("runner", route("other"), 2.0) == []
    assert mec.receive("previous", held := task(1, 0), 2.5) == []
    back, connect = mec.receive("next", result(0), 3.0)
    assert back.message.metrics == {"done.mec": 1.0}
    assert connect == Connect(Peer("other"))
    mec.joined("next", "other", 4.0)
    assert mec.receive("next", sci(3, "other", FAR), 5.0)[1:] == [Forward(held, 3)]


def test_the_same_neighbour_is_kept_when_only_what_is_behind_it_changes():
    mec = in_chain(hop())
    assert mec.receive("runner", route("cloud", "elsewhere"), 1.0) == []
    assert mec.lost("next", 2.0) == [Connect(Peer("elsewhere"))]


def test_a_last_node_that_stays_last_says_nothing_new():
    cloud = hop()
    cloud.receive("runner", route(), 0.0)
    cloud.joined("previous", "mec", 0.0)
    assert cloud.receive("runner", route(), 1.0) == []


def test_a_node_that_another_has_taken_as_neighbour_does_not_look_for_the_next():
    mec = in_chain(hop())
    connect, *_ = mec.receive("next", Replaced(), 1.0)
    assert connect == Connect(None)


def test_nothing_is_sent_upstream_where_nobody_is():
    mec = in_chain(hop(), [9.0, 0.0, 0.0, 0.0])
    mec.computed(task(0, 1), 1.0)
    assert mec.lost("previous", 1.5) == []
    assert mec.receive("next", result(0), 2.0) == []
    assert mec.receive("next", sci(2, "cloud", FAR), 3.0) == []
    (told,) = mec.joined("previous", "other", 4.0)
    assert costs_in(told) == [3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("done", [None, -1, 4, 1 << 40])
def test_a_task_at_no_boundary_is_refused(done):
    with pytest.raises(ProtocolError, match="of 3 layers done"):
        in_chain(hop()).receive("previous", task(0, done), 1.0)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"cost_s": torch.zeros(3)},
        {"cost_s": torch.zeros(4, dtype=torch.int32)},
        {"cost_s": torch.zeros(2, 2)},
        {"cost_s": torch.tensor([0.0, -1.0, 0.0, 0.0])},
        {"cost_s": torch.zeros(4), "more": torch.zeros(1)},
    ],
)
def test_an_sci_message_that_is_none_is_refused(tensors):
    with pytest.raises(ProtocolError, match="cloud: split costs"):
        in_chain(hop()).receive("next", SplitCost(assignment=0, node="cloud", tensors=tensors), 1.0)


def test_what_nobody_should_say_is_refused():
    for member, sender in ((hop(), "previous"), (hop(), "runner"), (ue(), "next")):
        with pytest.raises(ProtocolError, match=f"unexpected Gradient from {sender}"):
            member.receive(sender, Gradient(assignment=0, step=0, tensors={}), 0.0)
        with pytest.raises(ProtocolError, match="unexpected Gradient from a computation"):
            member.computed(Gradient(assignment=0, step=0, tensors={}), 0.0)
    assert hop().receive("runner", Shutdown(), 0.0) == [Finish()]


BEGIN = Begin()


def test_the_ue_starts_its_next_task_when_one_is_back_and_tells_of_it():
    source = in_chain(ue(tasks=2), [9.0, 0.5, 0.5, 0.0])
    assert source.receive("runner", BEGIN, 1.0) == [Start(0, 1)]
    assert source.computed(gone := task(0, 1), 2.0) == [Send("next", gone)]
    told, following = source.receive("next", result(0, **{"ended_s": 3.5, "done.cloud": 3.0, "done.mec": 2.0}), 4.0)
    assert following == Start(1, 1)
    assert told.to == "runner"
    one = told.message
    assert isinstance(one, TaskReport)
    assert (one.step, one.predicted_s, one.began_s, one.ended_s, one.returned_s) == (0, 1.5, 1.0, 3.5, 4.0)
    assert one.splits == {"ue": 1, "mec": 2, "cloud": 3}
    assert list(one.splits) == ["ue", "mec", "cloud"]
    assert one.latency_s == 2.5
    source.computed(task(1, 1), 5.0)
    assert len(source.receive("next", result(1), 6.0)) == 1


def test_the_ue_tells_the_runner_of_each_update():
    source = in_chain(ue(), NEAR)
    (told,) = source.receive("next", sci(12, "cloud", [9.0, 9.0, 0.0, 0.0]), 1.0)
    assert told.to == "runner"
    assert (type(told.message), told.message.number, told.message.layers) == (SplitPoint, 12, 2)


def test_a_ue_alone_does_all_itself():
    source = ue(tasks=1, after_update=True)
    assert source.receive("runner", route(), 0.0) == [Connect(None)]
    assert source.receive("runner", BEGIN, 1.0) == [Start(0, 3)]
    (told,) = source.computed(task(0, 3), 4.0)
    assert told.message.splits == {"ue": 3}
    assert told.message.latency_s == 3.0


def test_tasks_start_by_the_clock_but_no_more_than_the_window():
    source = in_chain(ue(tasks=4, period_s=2.0, window=2), [9.0, 0.0, 0.0, 0.0])
    wake, start = source.receive("runner", BEGIN, 10.0)
    assert (wake, start) == (Wake(12.0, "task"), Start(0, 1))
    assert source.woke("task", 12.25) == [Wake(14.0, "task"), Start(1, 1)]
    assert source.woke("task", 14.0) == [Wake(16.0, "task")]
    assert source.woke("task", 16.0) == []
    source.computed(task(0, 1), 16.5)
    assert source.receive("next", result(0), 17.0)[1:] == [Start(2, 1)]


def test_a_task_may_wait_for_an_update_of_its_own():
    source = in_chain(ue(tasks=2, window=2, after_update=True), [9.0, 0.0, 0.0, 0.0])
    assert source.receive("runner", BEGIN, 1.0) == [Start(0, 1)]
    _, start = source.receive("next", sci(2, "cloud", [9.0, 9.0, 0.0, 0.0]), 2.0)
    assert start == Start(1, 2)


def test_the_ue_hands_over_between_tasks():
    source = in_chain(ue(tasks=3), [9.0, 0.0, 0.0, 0.0])
    source.receive("runner", BEGIN, 1.0)
    assert source.receive("runner", route("gnb2", "cloud"), 1.5) == []
    source.computed(task(0, 1), 2.0)
    told, connect = source.receive("next", result(0), 3.0)
    assert told.message.step == 0
    assert connect == Connect(Peer("gnb2"))
    assert source.joined("next", "gnb2", 4.0) == []
    assert source.receive("next", sci(1, "gnb2", FAR), 5.0)[1:] == [Start(1, 3)]


def test_a_task_that_a_node_died_with_is_started_again():
    source = in_chain(ue(tasks=1), [9.0, 0.0, 0.0, 0.0])
    source.receive("runner", BEGIN, 1.0)
    source.computed(task(0, 1), 2.0)
    assert source.receive("next", TaskLost(step=0), 3.0) == [Start(0, 1)]
    assert source.computed(task(0, 1), 4.0)[0].to == "next"
    assert source.lost("next", 5.0) == [Connect(Peer("beyond"))]
    source.joined("next", "beyond", 6.0)
    assert source.receive("next", sci(1, "beyond", FAR), 7.0)[1:] == [Start(0, 3)]
    (told,) = source.computed(task(0, 3), 10.0)
    assert (told.message.restarts, told.message.latency_s) == (2, 9.0)
    assert source.receive("next", result(0), 11.0) == []


def test_a_task_for_a_neighbour_that_is_gone_is_started_again_once_there_is_another():
    source = in_chain(ue(tasks=1), [9.0, 0.0, 0.0, 0.0])
    source.receive("runner", BEGIN, 1.0)
    source.lost("next", 1.5)
    assert source.computed(task(0, 1), 2.0) == []
    connect, again = source.lost("next", 3.0)
    assert (connect, again) == (Connect(None), Start(0, 3))


@pytest.mark.parametrize("wrong", [{"tasks": -1}, {"tasks": 1, "window": 0}, {"tasks": 1, "period_s": 0.0}])
def test_a_pace_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Pace(**wrong)
