"""Services of several UEs that share nodes and links, in virtual time, against queues counted by hand."""

import random

import pytest

from netem.link import Link, LinkProfile
from nodes.inference.frames import frames_of_bytes, wire_bytes
from nodes.inference.in_process import Scene, Served, serve_together
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.splitting.search import transfer_s
from nodes.wire.codec import wire_size

MEC_S = 2.0
DELAY_S = 0.5
FRAMES = frames_of_bytes([1000, 1])


def link(rate_bps: float | None = None) -> tuple[Link, Link]:
    """A link and its opposite direction, of which the latter carries small messages and is unlimited."""
    profiles = LinkProfile(rate_bps=rate_bps, delay_s=DELAY_S), LinkProfile(delay_s=DELAY_S)
    one, other = (Link(profile, random.Random(0)) for profile in profiles)
    return one, other


def scene(ue: int, begins_s: float, ue_s: float = 100.0, relay: bool = False, **changes) -> Scene:
    """One task of one layer that takes ``ue_s`` at the UE and 2 s at the MEC server, behind a relay or not."""
    name = f"ue{ue}"
    route = (name, "gnb", "mec") if relay else (name, "mec")
    given = {
        "pace": Pace(tasks=1),
        "layer_s": {name: [ue_s], "gnb": [float("inf")], "mec": [MEC_S]},
        "estimates": lambda upper, lower: lambda now, ahead_s: [DELAY_S, 0.0],
        "routes": [(begins_s, route)],
    }
    return Scene(**given | changes)


def together(*scenes: Scene) -> list[Served]:
    return serve_together(scenes, FRAMES, {(f"ue{ue}", "mec"): link() for ue in range(len(scenes))})


def test_two_tasks_at_one_server_wait_for_each_other_in_the_order_of_their_arrival() -> None:
    """Costs arrive after 0.5 s and the task after 0.5 s more: at 1 and at 1.25; they are done at 3 and at 5."""
    (first,), (second,) = (one.tasks for one in together(scene(0, 0.0), scene(1, 0.25)))
    assert (first.began_s, first.ended_s) == pytest.approx((0.5, 3.0))
    assert (second.began_s, second.ended_s) == pytest.approx((0.75, 5.0))


@pytest.mark.parametrize(
    ("ue_s", "told", "splits", "predicted_s", "latency_s"),
    [
        (3.75, False, {"ue1": 0, "mec": 1}, 2.5, 3.0),
        (3.75, True, {"ue1": 1}, 3.75, 3.75),
        (4.25, True, {"ue1": 0, "mec": 1}, 4.0, 3.0),
    ],
)
def test_a_queue_told_moves_a_task_elsewhere(ue_s, told, splits, predicted_s, latency_s) -> None:
    """At 1.5 the server has 1.5 s left for the other UE; the task would come at 2.5, wait 0.5 s and end at 5."""
    _, (task,) = (one.tasks for one in together(scene(0, 0.0), scene(1, 1.5, ue_s, tell_queues=told)))
    assert task.splits == splits
    assert (task.predicted_s, task.latency_s) == pytest.approx((predicted_s, latency_s))


def test_an_own_task_is_no_queue_to_the_next_one() -> None:
    """One UE alone: the costs told at 2.4 s, with 0.6 s of its own task left, are those of an idle server."""
    changes = {"pace": Pace(tasks=3), "policy": Policy(period_s=0.8), "tell_queues": True}
    (served,) = together(scene(0, 0.0, ue_s=2.75, **changes))
    assert [task.latency_s for task in served.tasks] == pytest.approx([DELAY_S + MEC_S] * 3)
    assert [task.predicted_s for task in served.tasks] == pytest.approx([DELAY_S + MEC_S] * 3)


def test_frames_of_two_ues_share_a_link_one_after_the_other_and_its_queue_is_told() -> None:
    """Both tasks reach the relay at about 2 s; each frame takes ``busy_s`` from there."""
    rate_bps = 4000.0
    busy_s = 8 * sum(wire_size(FRAMES[0])) / rate_bps
    sizes = wire_bytes(FRAMES)

    def estimates(upper: str, lower: str):
        rate = rate_bps if upper == "gnb" else float("inf")
        return lambda now, ahead_s: transfer_s(sizes, rate, DELAY_S)

    def run(told: bool) -> list[Served]:
        links = {("ue0", "gnb"): link(), ("ue1", "gnb"): link(), ("gnb", "mec"): link(rate_bps)}
        ues = (scene(0, 0.0, relay=True), scene(1, 1.75, relay=True))
        given = {"estimates": estimates, "tell_queues": told}
        return serve_together([replaced(one, given) for one in ues], FRAMES, links)

    arrives_s = 1.5  # costs over two links, the task over one
    first_s, second_s = arrives_s + busy_s, max(1.75 + arrives_s, arrives_s + busy_s) + busy_s
    for told in (False, True):
        (first,), (second,) = (one.tasks for one in run(told))
        assert first.ended_s == pytest.approx(first_s + DELAY_S + MEC_S)
        assert second.ended_s == pytest.approx(max(second_s + DELAY_S, first.ended_s) + MEC_S)
        left_s = arrives_s + busy_s - 1.75 if told else 0.0  # of the first frame, when the second UE's costs are told
        assert second.predicted_s == pytest.approx(left_s + 2 * DELAY_S + busy_s + MEC_S)


def replaced(one: Scene, changes: dict) -> Scene:
    return Scene(**{name: getattr(one, name) for name in one.__struct_fields__} | changes)


def test_many_ues_are_served_as_by_one_queue() -> None:
    rng = random.Random(1)
    begins_s = [rng.uniform(0, 60) for _ in range(30)]
    served = together(*(scene(ue, at_s) for ue, at_s in enumerate(begins_s)))
    free_s = 0.0
    for at_s, one in sorted(zip(begins_s, served, strict=True), key=lambda pair: pair[0]):
        free_s = max(free_s, at_s + 2 * DELAY_S) + MEC_S
        assert one.tasks[0].ended_s == pytest.approx(free_s)
