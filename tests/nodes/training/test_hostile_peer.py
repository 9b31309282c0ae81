"""What a peer with the token may send: one typed error that names the field, before torch computes with it."""

from typing import Any

import msgspec
import pytest
import torch

from nodes.errors import ProtocolError
from nodes.model.boundary import View
from nodes.runtime.report import MOST_BYTES, PART_BYTES, NodeReport, ReportParts, report_messages
from nodes.spec.job import Device, Job, StageSpec, Timing
from nodes.spec.policy import LinkSpec, Policy
from nodes.training.segment import Segment
from nodes.training.source import logits_of
from nodes.wire.codec import HEADER_BYTES, HEADER_MEMORY, Decoder, FrameError, encode
from nodes.wire.messages import Activation, AnyMessage, ClientLost, Configure, Gradient, Report, Result, SplitCost

JOB = Job(
    model="small_cnn",
    input_shape=(3, 16, 16),
    classes=10,
    nodes=("ue", "mec"),
    splits=(2,),
    stages=(StageSpec(),),
    batch_size=2,
)


@pytest.fixture(scope="module")
def server() -> Segment:
    return Segment(JOB, 1)


@pytest.fixture(scope="module")
def sent() -> Activation:
    """What the UE sends for a batch of two."""
    message = Segment(JOB, 0).source(torch.zeros(2, 3, 16, 16), torch.tensor([0, 9]), assignment=0, step=0, train=True)
    assert isinstance(message, Activation)
    return message


def changed(message: Activation, **fields: Any) -> Activation:
    return msgspec.structs.replace(message, **fields)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 10], "labels: got 0 to 10, expected 0 to 9"),
        ([-1, 3], "labels: got -1 to 3, expected 0 to 9"),
        ([1], "labels: got 1, expected 2"),
        ([[1], [2]], r"labels: got torch.int64 \[2, 1\]"),
        ([], r"labels: got torch.int64 \[0\]"),
    ],
)
def test_labels_are_classes_of_the_samples(server: Segment, sent: Activation, labels: list[int], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        server.forward(changed(sent, labels=torch.tensor(labels, dtype=torch.int64)))


def test_labels_of_the_highest_class_are_taken(server: Segment, sent: Activation) -> None:
    assert isinstance(server.forward(sent), Gradient)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_tensors_have_the_kind_of_the_values_at_the_cut(server: Segment, sent: Activation, dtype: torch.dtype) -> None:
    wrong = {name: tensor.to(dtype) for name, tensor in sent.tensors.items()}
    with pytest.raises(ProtocolError, match="gradients requested for values"):
        server.forward(changed(sent, tensors=wrong))
    with pytest.raises(ProtocolError, match=r"restored .* expected torch.float32"):
        server.forward(changed(sent, tensors=wrong, grads=()))


@pytest.mark.parametrize("stage", ["float16", "int8", "topk", "pruned", "dynsplit"])
def test_a_stage_that_cannot_take_the_tensors_is_an_error_of_the_message(stage: str, sent: Activation) -> None:
    server = Segment(msgspec.structs.replace(JOB, stages=(StageSpec(name=stage),)), 1)
    for tensors in ({}, {"y": torch.zeros(2, dtype=torch.int64)}, {"x": torch.zeros((), dtype=torch.bool)}):
        with pytest.raises(ProtocolError):
            server.forward(changed(sent, tensors=tensors, grads=()))


def test_a_gradient_is_of_numbers_with_a_fractional_part() -> None:
    ue = Segment(JOB, 0)
    message = ue.source(torch.zeros(2, 3, 16, 16), torch.tensor([0, 9]), assignment=0, step=0, train=True)
    ((name, tensor),) = message.tensors.items()
    with pytest.raises(ProtocolError, match=f"gradient of {name}"):
        ue.backward(Gradient(assignment=0, step=0, tensors={name: tensor.long()}))


def test_a_result_answers_a_test_batch_that_is_under_way() -> None:
    labels, logits = torch.tensor([0, 1]), torch.zeros(2, 10)
    assert logits_of(Result(assignment=0, step=0, tensors={"logits": logits}), labels) is logits
    for tensors, due in (
        ({}, labels),
        ({"logits": logits}, None),
        ({"logits": logits[:1]}, labels),
        ({"logits": logits.long()}, labels),
        ({"logits": labels}, labels),
    ):
        with pytest.raises(ProtocolError, match="result of test batch 7"):
            logits_of(Result(assignment=0, step=7, tensors=tensors), due)


def forged(message: AnyMessage, **fields: Any) -> bytes:
    """The frame of ``message`` with ``fields`` that its type forbids."""
    plain = {name: getattr(message, name) for name in message.__struct_fields__}
    tag = {"type": type(message).__struct_config__.tag}
    kind = msgspec.defstruct("Forged", [(name, Any) for name in tag | plain | fields], kw_only=True)
    return b"".join(encode(kind(**tag | plain | fields)))


@pytest.mark.parametrize("number", [-1, 1 << 48, 2**63, 1.5, True, "1"])
@pytest.mark.parametrize("field", ["assignment", "step", "microbatch", "save", "done", "steps"])
def test_numbers_of_a_task_are_counts(sent: Activation, field: str, number: Any) -> None:
    with pytest.raises(FrameError, match=rf"header: .*\$\.{field}"):
        Decoder().feed(forged(sent, **{field: number}))


def test_labels_of_another_dtype_and_an_index_outside_the_nodes_are_refused(sent: Activation) -> None:
    with pytest.raises(FrameError, match="labels: expected int64"):
        Decoder().feed(forged(sent, labels=torch.zeros(2)))
    assert Decoder().feed(forged(Configure(job=JOB, index=1)))
    for fields in ({"index": 2}, {"source": 1}):
        with pytest.raises(FrameError, match=r"expected below 2 nodes and 1 sources"):
            Decoder().feed(forged(Configure(job=JOB, index=1), **fields))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_figures_of_devices_and_links_are_finite(number: float) -> None:
    makers = (
        lambda: Device(slowdown=number),
        lambda: Timing(forward_s=number),
        lambda: Timing(backward_s=number),
        lambda: LinkSpec(delay_s=number),
        lambda: Policy(hysteresis=-1 if number == float("inf") else number),
    )
    for make in makers:
        with pytest.raises(ValueError, match=r"must (not )?be"):
            make()


def test_a_header_that_no_receiver_accepts_is_refused_by_its_sender() -> None:
    assert encode(ClientLost(client="x", reason="r" * (HEADER_BYTES - 100)))
    with pytest.raises(FrameError, match=f"ClientLost: header of .* 1 to {HEADER_BYTES} can be sent"):
        encode(ClientLost(client="x", reason="r" * HEADER_BYTES))


def test_reports_of_thousands_of_nodes_arrive_in_parts() -> None:
    reports = [NodeReport(name=f"client{number}", dataset="digits") for number in range(5000)]
    messages, parts = report_messages(reports), ReportParts(one.name for one in reports)
    assert len(messages) > 1
    assert all(len(encode(message)[0]) < PART_BYTES + 100 for message in messages)
    *none, got = [parts.take(message) for message in messages]
    assert set(none) == {None}
    assert got == reports


@pytest.mark.parametrize(
    ("part", "words"),
    [(b"\xc1", "report: "), (b"\x90", "on one side only"), (b"x" * (MOST_BYTES + 1), "more than")],
)
def test_reports_of_other_nodes_or_of_nothing_are_refused(part: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        ReportParts(["mec"]).take(Report(part=part, last=True))


def test_a_header_counts_for_the_memory_that_it_takes() -> None:
    message = SplitCost(assignment=0, node="n" * 100_000, tensors={"cost_s": torch.zeros(3)})
    header, *payload = encode(message)
    ((_, _, counted),) = Decoder().feed(b"".join([header, *payload]))
    assert counted >= HEADER_MEMORY * 100_000 + 12


def test_sizes_strides_and_places_of_views_are_counts(sent: Activation) -> None:
    for odd in (("x", (2, -1), (3, 1), 0), ("x", (2,), (-1,), 0), ("x", (2,), (1,), -1), ("x", (1 << 48,), (1,), 0)):
        with pytest.raises(FrameError, match=r"header: .*\$\.views"):
            Decoder().feed(forged(sent, views={"y": View(*odd)}))
