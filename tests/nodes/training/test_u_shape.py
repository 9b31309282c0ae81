"""U-shaped split of a chain: the last layers and the labels stay with the UE, and it trains as the unsplit network."""

import pytest
from msgspec.structs import replace
from oracle import assert_equals_unsplit, make_job

from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.errors import ModelError
from nodes.model.checkpoint import last_checkpoint
from nodes.spec.job import DataSpec, Job, OptimizerSpec, StageSpec, Timing
from nodes.training.in_process import run_in_process, run_in_virtual_time
from nodes.wire.channel import MemoryChannel
from nodes.wire.codec import encode
from nodes.wire.messages import AnyMessage, Gradient

PLAIN, CNN = "user_models:Plain", "user_models:slim_cnn"
STAGES = (StageSpec(),)


def u_shaped(splits: tuple[int, ...], tail: int, model: str = PLAIN, **changes) -> Job:
    stages = STAGES * (len(splits) + 1)
    return make_job(model, splits, **{"tail": tail, "stages": stages, "steps": 3} | changes)


@pytest.mark.parametrize(
    ("splits", "tail"),
    [((2,), 5), ((0,), 6), ((3, 5), 6), ((2, 2, 4, 4), 5), ((1, 4, 4), 4), ((2, 6), 6)],
    ids=str,
)
def test_a_chain_equals_the_whole(splits, tail, tmp_path):
    outcome = assert_equals_unsplit(u_shaped(splits, tail), tmp_path)
    held = [stop - start for start, stop in zip((0, *splits), (*splits, tail), strict=True)]
    assert [node.layers for node in outcome.nodes] == [held[0] + 7 - tail, *held[1:]]


def test_batch_norm_dropout_microbatches_and_a_schedule_by_step_equal_the_whole(tmp_path):
    more = {
        "input_shape": (3, 16, 16),
        "microbatches": 2,
        "optimizer": OptimizerSpec(lr=0.02, schedule="one_cycle"),
    }
    whole, job = make_job(CNN, (), steps=3, **more), u_shaped((3, 8), 13, CNN, **more)
    assert run_in_process(job).losses == run_in_process(whole).losses


def test_training_goes_on_from_the_checkpoints_of_all_three_parts(tmp_path):
    first = u_shaped((2,), 5, checkpoint=str(tmp_path), epochs=1)
    kept = run_in_process(first).losses
    resumed = run_in_process(replace(first, epochs=2)).losses
    assert kept + resumed == run_in_process(u_shaped((2,), 5)).losses
    assert last_checkpoint(first, 7) == 2
    (tmp_path / "node-2-2.pt").unlink()
    assert last_checkpoint(first, 7) == 1


def sent_in(job: Job, monkeypatch) -> list[AnyMessage]:
    """All messages that cross a link."""
    sent, send = [], MemoryChannel.send

    async def noted(channel, message, *rest):
        sent.append(message)
        return await send(channel, message, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryChannel, "send", noted)
        run_in_process(job)
    return sent


def labelled(sent: list[AnyMessage]) -> list[bytes]:
    """The headers of frames in which a tensor of integers lies, as labels are."""
    headers = [bytes(encode(message)[0]) for message in sent]
    return [header for header in headers if b"i64" in header]


def test_no_label_and_no_score_crosses_a_link(monkeypatch):
    straight = sent_in(make_job(PLAIN, (2, 5), steps=3, epochs=1), monkeypatch)
    assert len(labelled(straight)) == 2 * 3  # links, steps
    returning = sent_in(u_shaped((2, 4), 5, epochs=1), monkeypatch)
    assert labelled(returning) == []
    gradients = [message for message in returning if isinstance(message, Gradient)]
    assert len(gradients) == 2 * 2 * 3  # links, ways, steps
    assert all(message.metrics.keys().isdisjoint({"loss", "correct"}) for message in gradients)


def payload(node, direction: str) -> dict[str, int]:
    return {kind: traffic.payload_bytes for kind, traffic in getattr(node, direction).items()}


def test_both_cuts_are_counted_in_both_directions():
    """Of Plain 8 x 16 x 16 numbers cross after layer 2, and 8 x 8 x 8 after 5; 3 steps of 8 pictures, 20 in tests."""
    job = u_shaped((2,), 5, epochs=1)
    ue, server = run_in_process(job).nodes
    first, last = 8 * 16 * 16, 8 * 8 * 8
    up = payload(ue, "sent_uplink")
    assert up == {"activation": 4 * (3 * 8 + 20) * first, "gradient": 4 * 3 * 8 * last, "shutdown": 0}
    down = payload(server, "sent_downlink")
    assert down == {"activation": 4 * (3 * 8 + 20) * last, "gradient": 4 * 3 * 8 * first}


@pytest.mark.parametrize("stage", ["identity", "int8"])
def test_bytes_in_virtual_time_are_those_of_the_run_with_data(stage):
    job = u_shaped((2, 4), 5, epochs=1, microbatches=2, stages=(StageSpec(name=stage),) * 3)
    link = Duplex(up=LinkProfile(rate_bps=2e6, delay_s=0.03), down=LinkProfile(rate_bps=8e6, delay_s=0.05))
    real, virtual = run_in_process(job), run_in_virtual_time(job, [Timing()] * 3, [link] * 2)
    for one, other in zip(real.nodes, virtual.nodes, strict=True):
        assert (one.sent_uplink, one.sent_downlink) == (other.sent_uplink, other.sent_downlink)


def test_a_step_crosses_the_link_four_times():
    up, down = LinkProfile(rate_bps=2e6, delay_s=0.03), LinkProfile(rate_bps=8e6, delay_s=0.05)
    job = u_shaped((2,), 5, epochs=1, data=DataSpec(train_samples=24, test_samples=8))
    ue = Timing(forward_s=0.010, backward_s=0.015, tail_forward_s=0.001, tail_backward_s=0.002)
    outcome = run_in_virtual_time(job, [ue, Timing(forward_s=0.007, backward_s=0.020)], [Duplex(up=up, down=down)])
    expected = ue.forward_s + ue.backward_s + ue.tail_forward_s + ue.tail_backward_s + 0.007 + 0.020
    for node, sent, link in zip(outcome.nodes, ("sent_uplink", "sent_downlink"), (up, down), strict=True):
        for kind, count in (("activation", 4), ("gradient", 3)):  # of activations one is a test's
            traffic = getattr(node, sent)[kind]
            expected += 8 * (traffic.header_bytes + traffic.payload_bytes) / count / link.rate_bps + link.delay_s
    assert outcome.step_s == pytest.approx([expected] * 3, rel=1e-3)


@pytest.mark.parametrize(
    ("splits", "changes", "words"),
    [
        ((3,), {"tail": 3}, "more layers than the UE's first ones"),
        ((2, 5), {"tail": 4}, "no less than the last split"),
        ((2,), {"tail": 5, "stages": STAGES}, "one stage more for the return"),
        ((2,), {"tail": 5, "moves": {}}, "no moves and no members"),
        ((2,), {"tail": 5, "members": (1,)}, "no moves and no members"),
    ],
)
def test_a_job_that_cannot_return_is_refused(splits, changes, words):
    with pytest.raises(ValueError, match=words):
        u_shaped(splits, **changes)


def test_all_layers_before_the_return_are_refused():
    with pytest.raises(ModelError, match="fewer than the model's 7 layers"):
        run_in_process(u_shaped((2,), 7))
