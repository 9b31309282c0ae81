"""Frames: exact bytes, any chunking, and a FrameError for everything else."""

import struct
import zlib
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.spec.federation import Federation, SchemeSpec
from nodes.spec.job import DataSpec, Job, StageSpec
from nodes.spec.policy import LinkSpec
from nodes.spec.service import Pace, Service
from nodes.wire.codec import DTYPES, PREFIX, Decoder, FrameError, Limits, Received, encode, wire_size
from nodes.wire.messages import Activation, AnyMessage, Configure, Result, Shutdown, SplitCost

JOB = Job(
    model="resnet18",
    input_shape=(3, 32, 32),
    classes=10,
    nodes=("ue", "mec"),
    splits=(3,),
    stages=(StageSpec(name="float16", options={"a": [1, {"b": None}]}),),
    data=DataSpec(train_samples=5),
)

counts = st.integers(0, 2**31)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    tensor = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(draw(counts))).to(dtype)
    return tensor.t() if len(shape) == 2 and draw(st.booleans()) else tensor


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    Any: st.none() | st.text(max_size=8),
    str: st.text(max_size=8),
    int: counts,
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    NoneType: st.none(),
    msgspec.UnsetType: st.just(msgspec.UNSET),
    torch.Tensor: tensors(),
    Job: st.just(JOB),
    Service: st.just(Service(model="resnet18", input_shape=(3, 32, 32), classes=10, pace=Pace(tasks=1))),
    Federation: st.just(Federation(job=JOB, scheme=SchemeSpec(name="psl"))),
    LinkSpec: st.builds(LinkSpec, rate_bps=st.none() | st.floats(1, 1e12)),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of the type of a message's field."""
    arguments = get_args(kind)
    match get_origin(kind):
        case _ if kind in VALUES:
            found = VALUES[kind]
        case annotated if annotated is Annotated:
            bounds = kind.__metadata__[0]
            if arguments[0] is int:
                found = st.integers(bounds.ge or 0, (bounds.lt or bounds.le or 2**31) - 1)
            elif arguments[0] is float:
                found = st.floats(bounds.ge, bounds.le)
            else:
                found = values(arguments[0]).filter(lambda value: value or not bounds.min_length)
        case origin if origin in (Union, UnionType):
            found = st.one_of(*map(values, arguments))
        case origin if origin is dict:
            found = st.dictionaries(values(str), values(arguments[1]), max_size=3)
        case origin if origin is tuple and arguments[-1] is Ellipsis:
            found = st.lists(values(arguments[0]), max_size=3).map(tuple)
        case origin if origin is tuple:
            found = st.tuples(*map(values, arguments))
        case _:
            found = st.builds(
                kind, **{name: values(field) for name, field in get_type_hints(kind, include_extras=True).items()}
            )
    return found


# Fields whose messages say more of them than their types do.
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "index": st.just(1),
    "labels": st.none() | st.lists(st.integers(-1, 9), max_size=3).map(lambda some: torch.tensor(some).long()),
}


def messages(kind: type) -> st.SearchStrategy[AnyMessage]:
    fields = {field.name: values(field.type) for field in msgspec.structs.fields(kind)}
    special = SPECIAL | ({"source": st.just(0)} if kind is Configure else {})
    return st.builds(kind, **fields | {name: special[name] for name in special.keys() & fields.keys()})


MESSAGES = st.one_of(*map(messages, get_args(AnyMessage)))
ACTIVATION = Activation(
    assignment=1,
    step=2,
    train=True,
    tensors={"x": torch.arange(6.0).reshape(2, 3)},
    labels=torch.tensor([4, 5]),
)
BYTES = torch.arange(6, dtype=torch.uint8)


def frame(message: AnyMessage, sequence: int = 0) -> bytes:
    return b"".join(encode(message, sequence))


def framed(
    header: Any,
    payload: bytes = b"",
    *,
    version: int = 2,
    header_bytes: int | None = None,
    size: int | None = None,
) -> bytes:
    """A frame made from the documented layout alone; ``header`` is packed unless it is bytes."""
    packed = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
    start = struct.pack(
        "<BIIQ",
        version,
        len(packed) if header_bytes is None else header_bytes,
        0,
        len(payload) if size is None else size,
    )
    return start + struct.pack("<I", zlib.crc32(start + packed)) + packed + payload


def plain(value: Any) -> Any:
    """``value`` with each tensor as its dtype, shape and bytes, so that messages can be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.contiguous().reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        return type(value), {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return value


def read(data: bytes, limits: Limits | None = None) -> AnyMessage:
    """The one message of ``data``."""
    decoder = Decoder(limits)
    messages = decoder.feed(data)
    decoder.check_end()
    ((_, message, _),) = messages
    return message


def through_buffer(decoder: Decoder, data: bytes, chunk: int) -> list[Received]:
    """Feed ``data`` as a BufferedProtocol does, at most ``chunk`` bytes a read."""
    got = []
    while data:
        buffer = decoder.buffer()
        count = min(chunk, len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        got += decoder.advance(count)
    return got


@given(MESSAGES, st.integers(0, 2**32 - 1))
def test_a_message_survives_every_cut_of_its_frame_in_two(message: AnyMessage, sequence: int) -> None:
    data = frame(message, sequence)
    for cut in range(len(data) + 1):
        decoder = Decoder()
        ((got, copy, _),) = [*decoder.feed(data[:cut]), *decoder.feed(data[cut:])]
        assert (got, plain(copy)) == (sequence, plain(message))


@given(st.lists(MESSAGES, min_size=1, max_size=3), st.integers(1, 300))
def test_frames_back_to_back_come_out_in_order_at_any_chunking(messages: list[AnyMessage], chunk: int) -> None:
    data = b"".join(frame(message, number) for number, message in enumerate(messages))
    expected = [(number, plain(message)) for number, message in enumerate(messages)]
    for size in (1, chunk, len(data)):
        assert [(n, plain(m)) for n, m, _ in through_buffer(Decoder(), data, size)] == expected
    assert [(n, plain(m)) for n, m, _ in Decoder().feed(data)] == expected


@given(MESSAGES)
def test_wire_size_is_the_length_of_the_frame(message: AnyMessage) -> None:
    header, *payload = encode(message)
    assert wire_size(message) == (len(header), sum(map(len, payload)))


def test_wire_size_needs_shapes_only() -> None:
    meta = Activation(
        assignment=1,
        step=2,
        train=True,
        tensors={"x": torch.empty(2, 3, device="meta")},
        labels=torch.empty(2, dtype=torch.int64, device="meta"),
    )
    assert wire_size(meta) == wire_size(ACTIVATION)


def test_a_frame_typed_out_by_hand() -> None:
    header = (
        b"\x84"  # a map of 4
        b"\xa4type\xa3sci"
        b"\xaaassignment\x07"
        b"\xa4node\xa2ue"
        b"\xa7tensors\x81\xa6cost_s\x92\xa3f32\x91\x02"  # {"cost_s": ["f32", [2]]}
    )
    payload = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"  # 1.0, -2.0
    start = b"\x02" + b"\x35\x00\x00\x00" + b"\x05\x00\x00\x00" + b"\x08\x00\x00\x00\x00\x00\x00\x00"
    whole = start + struct.pack("<I", zlib.crc32(start + header)) + header + payload
    message = SplitCost(assignment=7, node="ue", tensors={"cost_s": torch.tensor([1.0, -2.0])})
    assert len(header) == 0x35
    assert frame(message, 5) == whole
    assert [(n, plain(m)) for n, m, _ in Decoder().feed(whole)] == [(5, plain(message))]


@pytest.mark.parametrize("tensor", [torch.tensor(3.5), torch.empty(0, 4), torch.empty(2, 0), torch.tensor(True)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32])
def test_scalar_and_empty_tensors(tensor: torch.Tensor, dtype: torch.dtype) -> None:
    message = Result(assignment=0, step=0, tensors={"x": tensor.to(dtype)})
    assert plain(read(frame(message))) == plain(message)


def test_a_tensor_that_requires_grad_or_is_not_contiguous_travels_as_its_values() -> None:
    weight = torch.arange(12.0).reshape(3, 4).requires_grad_()
    copy = read(frame(Result(assignment=0, step=0, tensors={"a": weight, "b": weight[::2, 1:].t(), "c": BYTES[::2]})))
    assert torch.equal(copy.tensors["a"], weight)
    assert torch.equal(copy.tensors["b"], weight[::2, 1:].t())
    assert copy.tensors["c"].tolist() == [0, 2, 4]
    assert not copy.tensors["a"].requires_grad


def test_contiguous_tensors_are_not_copied() -> None:
    x = torch.zeros(4)
    _, payload = encode(Result(assignment=0, step=0, tensors={"x": x}))
    x.fill_(1)
    assert bytes(payload) == b"\x00\x00\x80\x3f" * 4


def test_received_tensors_own_their_memory() -> None:
    data, decoder = bytearray(frame(ACTIVATION) * 2), Decoder()
    (_, first, _), (_, second, _) = decoder.feed(data)
    data[:] = bytes(len(data))
    first.tensors["x"].add_(1)
    assert torch.equal(second.tensors["x"], ACTIVATION.tensors["x"])
    assert first.tensors["x"].untyped_storage().nbytes() == 24


@settings(max_examples=300)
@given(MESSAGES, st.data())
def test_any_flipped_bit_of_prefix_or_header_is_a_frame_error(message: AnyMessage, data: st.DataObject) -> None:
    header, *payload = encode(message)
    place = data.draw(st.integers(0, len(header) * 8 - 1))
    broken = bytearray(header)
    broken[place // 8] ^= 1 << place % 8
    with pytest.raises(FrameError):
        read(bytes(broken) + b"".join(payload))


@given(st.binary(max_size=200))
def test_garbage_is_a_frame_error(data: bytes) -> None:
    if data:
        with pytest.raises(FrameError):
            read(data)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 64))
def test_a_header_of_garbage_with_a_right_checksum_is_a_frame_error(header: bytes, size: int) -> None:
    with pytest.raises(FrameError):
        read(framed(header or b"\xc1", bytes(size)))


RESULT = {"type": "result", "assignment": 0, "step": 0}


def spec(dtype: Any, shape: Any) -> dict[str, Any]:
    return RESULT | {"tensors": {"x": [dtype, shape]}}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (framed({"type": "surprise"}), "surprise"),
        (framed({"type": "shutdown", "more": 1}), "more"),
        (framed({"type": "split-change", "assignment": 0}), "splits"),
        (framed(RESULT, version=1), "version 1"),
        (framed(RESULT, version=0), "version 0"),
        (framed(RESULT, header_bytes=0), "header of 0 bytes"),
        (framed(RESULT, b"abcd"), "4 payload bytes belong to no tensor"),
        (framed(spec("f32", [2]), bytes(7)), "larger than the payload"),
        (framed(spec("f32", [2]), bytes(9)), "1 payload bytes belong to no tensor"),
        (framed(spec("f64", [1]), bytes(8)), "invalid tensor"),
        (framed(spec("u8", [-4]), bytes(4)), "invalid tensor"),
        (framed(spec("u8", [True]), bytes(1)), "invalid tensor"),
        (framed(spec("u8", [1] * 9), bytes(1)), "invalid tensor"),
        (framed(spec("u8", 4), bytes(4)), "invalid tensor"),
        (framed(spec(["u8"], [4]), bytes(4)), "invalid tensor"),
        (framed(RESULT | {"tensors": {"x": "u8"}}, bytes(4)), "invalid tensor"),
        (framed(spec("u8", [0] + [2**31 - 1] * 7)), "invalid tensor"),
        (framed(spec("u8", [0, 1 << 48])), "invalid tensor"),
        (framed(RESULT | {"tensors": {str(n): ["u8", [0]] for n in range(4097)}}), "4096 tensors"),
        (framed(msgspec.msgpack.encode(RESULT) + b"\x00"), r"^header: "),
        (framed(b"\x81\xa4type" + b"\x91" * 5000), r"^header: "),
        (framed(b"\x82\xa4type\xacsplit-change\xa6splits\xdd\xff\xff\xff\xff"), r"^header: "),
        (framed(b"\x82\xa4type\xa8shutdown\xa6reason\xa1\xff"), r"^header: "),
        (framed(spec("f32", [1]), b"abc"), "larger than the payload"),
        (framed(spec("f32", [1]), b"abc", size=4), "ended inside a frame"),
        (framed(RESULT)[:-1], "ended inside a frame"),
        (framed(RESULT)[:10], "ended inside a frame"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(data: bytes, says: str) -> None:
    with pytest.raises(FrameError, match=says):
        read(data)


def test_nesting_too_deep_is_a_frame_error() -> None:
    packed = msgspec.msgpack.encode(JOB).replace(b"\xa1a", b"\xa1a" + b"\x91" * 100_000, 1)
    job = b"\x83\xa4type\xa9configure\xa5index\x00\xa3job" + packed
    with pytest.raises(FrameError, match=r"^header: "):
        read(framed(job))


@pytest.mark.parametrize("size", [1025, 2**60, 2**64 - 1])
def test_a_payload_over_the_cap_is_refused_before_anything_is_allocated(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(FrameError, match=f"payload of {size} bytes, up to 1024 accepted"):
        Decoder(Limits(payload_bytes=1024)).feed(framed(spec("u8", [size]), size=size)[: PREFIX.size])


def test_tensors_larger_than_the_payload_are_refused_before_they_are_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("allocated"))
    for shape in ([2**60], [2**40, 2**20], [2**20, 2**20]):
        with pytest.raises(FrameError):
            Decoder().feed(framed(spec("u8", shape), size=1024))


def test_a_header_over_the_cap_is_refused_at_once() -> None:
    with pytest.raises(FrameError, match="header of 4294967295 bytes, 1 to 1048576 accepted"):
        Decoder().feed(framed(b"\xc0", header_bytes=2**32 - 1)[: PREFIX.size])


def test_limits_are_inclusive() -> None:
    header, payload = spec("u8", [4]), bytes(4)
    size = len(msgspec.msgpack.encode(header))
    message = read(framed(header, payload), Limits(header_bytes=size, payload_bytes=4))
    assert isinstance(message, Result)
    for limits in (Limits(header_bytes=size - 1), Limits(payload_bytes=3)):
        with pytest.raises(FrameError, match="accepted"):
            read(framed(header, payload), limits)


def test_without_a_job_a_payload_of_one_mebibyte_is_accepted() -> None:
    assert read(framed(spec("u8", [1 << 20]), bytes(1 << 20)))
    with pytest.raises(FrameError, match="up to 1048576 accepted"):
        Decoder().feed(framed(spec("u8", [1]), size=(1 << 20) + 1)[: PREFIX.size])


def test_empty_tensors_add_no_buffer() -> None:
    assert len(encode(Result(assignment=0, step=0, tensors={"x": torch.empty(0, 3)}))) == 1


def test_an_error_quotes_little_of_a_long_header() -> None:
    with pytest.raises(FrameError) as raised:
        read(framed(spec("u8", ["x" * 10_000])))
    assert len(str(raised.value)) < 250


def test_limits_may_grow_after_the_decoder_was_made() -> None:
    limits = Limits(payload_bytes=8)
    decoder = Decoder(limits)
    limits.payload_bytes = 64
    assert decoder.feed(frame(ACTIVATION))


def test_of_a_name_given_twice_the_last_counts_and_the_next_frame_is_read() -> None:
    twice = b"\x84\xa4type\xa6result\xaaassignment\x00\xa4step\x00\xa7tensors\x82" + b"\xa1x\x92\xa2u8\x91\x01" * 2
    (_, first, _), (_, second, _) = Decoder().feed(framed(twice, b"\x01\x02") + frame(Shutdown()))
    assert first.tensors["x"].tolist() == [2]
    assert isinstance(second, Shutdown)


@pytest.mark.parametrize("tensor", [torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.complex64)])
def test_a_tensor_of_another_dtype_cannot_be_sent(tensor: torch.Tensor) -> None:
    with pytest.raises(FrameError, match="cannot be sent"):
        encode(Result(assignment=0, step=0, tensors={"x": tensor}))


def test_an_object_cannot_be_sent() -> None:
    job = msgspec.structs.replace(JOB, stages=(StageSpec(options={"f": object()}),))
    with pytest.raises(FrameError, match="object cannot be sent"):
        encode(Configure(job=job, index=0))
