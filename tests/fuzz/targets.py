"""What is fuzzed: readers of bytes that come from peers, strangers, or authors of files."""

import asyncio
import io
import logging
import struct
import tarfile
import zlib
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import torch
from aiohttp import web
from fuzz import MIB, Target
from roles import deliver, drawn_messages

import suites
from bench.cli.split import read_plan
from bench.execution.loader import load
from bench.live.hosts.document import read_hosts
from bench.suite.document import InputError
from netem.trace import TraceError
from netem.trace import read as read_trace
from nodes.data.npz import read_npz
from nodes.data.stored import contents
from nodes.errors import DataError, ModelError, ProtocolError
from nodes.model.boundary import View, unpack
from nodes.model.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from nodes.process.host_control import ReadClock, Request, TimeConnection
from nodes.runtime.report import NodeReport, ReportParts
from nodes.spec.credentials import Credentials
from nodes.spec.federation import Federation, SchemeSpec
from nodes.spec.job import Job, StageSpec
from nodes.spec.service import Pace, Service
from nodes.wire.codec import CHECKSUM, PREFIX, VERSION, Decoder, FrameError, Limits, encode
from nodes.wire.messages import Activation, Configure, Enlist, Gradient, Report, Result, Serve, SplitCost, TaskReport
from nodes.wire.transport import Server
from reports.record import read_records
from reports.run_environment import read_environment

LIMITS = Limits(payload_bytes=MIB)
JOB = Job(
    model="small_cnn",
    input_shape=(3, 16, 16),
    classes=10,
    nodes=("ue", "mec"),
    splits=(2,),
    stages=(StageSpec(options={"a": [1, {"b": None}]}),),
)
ACTIVATION = Activation(
    assignment=1,
    step=2,
    train=True,
    grads=("x",),
    views={"y": View("x", (2, 3), (3, 1), 0)},
    scalars={"n": 4},
    tensors={"x": torch.arange(6.0).reshape(2, 3)},
    labels=torch.tensor([4, 5]),
)
MESSAGES = (
    ACTIVATION,
    Gradient(assignment=0, step=0, metrics={"loss": 1.5}, strides={"x": (3, 1)}, tensors=ACTIVATION.tensors),
    Result(assignment=0, step=0, tensors={"logits": torch.zeros(2, 10)}),
    SplitCost(assignment=0, node="mec", tensors={"cost_s": torch.zeros(4)}),
    TaskReport(step=1, predicted_s=0.1, began_s=0.0, ended_s=1.0, returned_s=1.0, splits={"ue": 2}),
    Configure(job=JOB, index=1, downstream=("127.0.0.1", 4000)),
    Serve(service=Service(model="vgg", input_shape=(3, 32, 32), classes=10, pace=Pace(tasks=3)), layer_s=(0.1, 0.2)),
    Enlist(federation=Federation(job=JOB, scheme=SchemeSpec()), names=("client1",)),
)
SUITE = Path(suites.__file__).with_name("transport.yaml").read_bytes()
PLAN = b"""nodes: [ue, mec]
compute_s: {ue: [0.1, 0.2], mec: [0.01, 0.02]}
boundary_bytes: [100, 50, 10]
links: [{rate_bps: 1e6, delay_s: 0.01}]
objective: latency
"""
HOSTS = b"""wait_s: 5
nodes:
  ue: {address: "127.0.0.1:4000", start: ssh, command: "ssh pi@ue.lan bench"}
  mec: {address: "[::1]:4000", start: ssh, command: ip netns exec mec bench}
"""
TRACES = (
    b"time_s,rate_bps,delay_s,loss\n0,1e6,0.01,0\n1,2e6,0.02,0.1\n2,0,0.02,0\n",
    b"time_s,rate_bps\n0,1000000\n0.5,20000\n",
    b"0\n1\n1\n2\n5\n",
)
RECORD = (
    b'{"schema":2,"run":"a","suite":"s","experiment":"e","case":{"x":1},"metric":"m","value":1.5,"unit":"s","seed":0,'
    b'"mode":"virtual","scale":"smoke","dataset":"none","shaping":"none","device":"cpu"}\n'
)
ENVIRONMENT = (
    b'{"versions":{"python":"3.11"},"arguments":["run","x"],"notes":[],'
    b'"suites":[{"name":"s","title":"S"}],"earlier":[]}'
)
REQUESTS = (
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /bulk?node=ue/1&channel=k HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    b"Authorization: Bearer wrong\r\n\r\n",
    b"GET /control?node=ue/1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"POST /host HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
)


def targets(folder: Path) -> list[Target]:
    """All targets; their files are written to ``folder``."""
    frames = [b"".join(encode(message)) for message in MESSAGES]
    headers = [frame[PREFIX.size : PREFIX.size + PREFIX.unpack_from(frame)[1]] for frame in frames]
    return [
        Target("frames", frames, _decode, (FrameError,)),
        Target("frames-with-checksum", frames, _decode, (FrameError,), mend=_with_checksum),
        Target("headers", headers, lambda header: _decode(_framed(header)), (FrameError,)),
        Target("roles", [b"any"], lambda data: deliver(JOB, drawn_messages(Random(data))), ()),
        Target("views", _view_seeds(), _view, (FrameError, ProtocolError)),
        Target("reports", [msgspec.msgpack.encode([NodeReport(name="mec")])], _report, (ProtocolError,)),
        Target("host-control", _host_seeds(), lambda data: msgspec.json.decode(data, type=Request), (ValueError,)),
        Target("requests", REQUESTS, _Requests(), ()),
        Target("credentials", [Credentials.of("s" * 16, "mec").text.encode()], _credentials, (ValueError,)),
        Target("suites", [SUITE], _of_file(folder / "s.yaml", lambda path: load([str(path)])), (InputError,)),
        Target("plans", [PLAN], _of_file(folder / "plan.yaml", read_plan), (InputError,)),
        Target("hosts", [HOSTS], _of_file(folder / "hosts.yaml", read_hosts), (InputError,)),
        Target("traces", TRACES, _of_file(folder / "trace.csv", read_trace), (TraceError,)),
        Target("npz", _npz_seeds(), _of_file(folder / "data.npz", lambda path: read_npz(path, ())), (DataError,)),
        Target("archives", [_archive()], _of_file(folder / "a.tar", lambda p: contents(p, ["labels"])), (DataError,)),
        Target("checkpoints", [_checkpoint(folder)], _of_file(*_reading_checkpoint(folder)), (ModelError,)),
        Target("records", [RECORD * 2], _of_file(folder / "r.jsonl", lambda p: list(read_records(p))), (ValueError,)),
        Target("environments", [ENVIRONMENT], read_environment, (ValueError,)),
    ]


def _of_file(path: Path, read):
    """Read bytes as the content of the file ``path``."""

    def read_bytes(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return read_bytes


def _decode(data: bytes) -> None:
    decoder = Decoder(LIMITS)
    for _, message, memory_bytes in decoder.feed(data):
        values = [getattr(message, name) for name in message.__struct_fields__]
        parts = [part for value in values for part in (value.values() if isinstance(value, dict) else [value])]
        held = sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
        assert held <= min(len(data), LIMITS.payload_bytes, memory_bytes)
    decoder.check_end()


def _framed(header: bytes, payload: bytes = b"") -> bytes:
    start = struct.pack("<BIIQ", VERSION, len(header), 0, len(payload))
    return start + CHECKSUM.pack(zlib.crc32(header, zlib.crc32(start))) + header + payload


def _with_checksum(frame: bytes) -> bytes:
    """``frame`` with the length and checksum of the header that its first bytes announce, as far as it is there."""
    if len(frame) < PREFIX.size:
        return frame
    size = PREFIX.unpack_from(frame)[1]
    header = frame[PREFIX.size : PREFIX.size + size]
    return _framed(header, frame[PREFIX.size + len(header) :])


def _view_seeds() -> list[bytes]:
    return [
        msgspec.msgpack.encode(View(*one)) for one in (("x", (2, 3), (3, 1), 0), ("x", (4,), (0,), 5), ("x", (), (), 1))
    ]


def _view(data: bytes) -> None:
    try:
        view = msgspec.msgpack.decode(data, type=View)
    except (ValueError, RuntimeError) as error:
        raise FrameError(str(error)) from None
    values = unpack({"x": torch.arange(12.0)}, {"y": view}, {})
    assert values["y"].numel() <= 12


def _report(data: bytes) -> None:
    ReportParts(["mec"]).take(Report(part=data, last=True))


def _host_seeds() -> list[bytes]:
    return [msgspec.json.encode(one) for one in (ReadClock(), TimeConnection(("127.0.0.1", 1)))]


def _credentials(data: bytes) -> None:
    read = Credentials.read(data.decode("latin-1"))
    read.token("ue/1")


class _Requests:
    """Bytes before the token: the server answers each connection, opens no channel, and serves on."""

    def __call__(self, data: bytes) -> None:
        logging.disable(logging.CRITICAL)  # of each refusal
        try:
            asyncio.run(self._serve(data))
        finally:
            logging.disable(logging.NOTSET)

    async def _serve(self, data: bytes) -> None:
        server = Server("the token is another one", LIMITS)
        handled = web.Server(server._handle, access_log=None)
        for piece in (data, REQUESTS[0]):
            protocol, transport = handled(), _Transport()
            protocol.connection_made(transport)
            half = len(piece) // 2
            for part in (piece[:half], piece[half:]):
                if not transport.closed and part:
                    protocol.data_received(part)
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            told = bytes(transport.written)
            protocol.connection_lost(None)
        assert told.startswith(b"HTTP/1.1 200")
        assert server._accepted.empty()
        assert not server._unpaired
        await handled.shutdown(0)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = bytearray(), False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 1) if name == "peername" else default


def _npz_seeds() -> list[bytes]:
    pictures, labels = np.zeros((4, 6, 6, 3), np.uint8), np.arange(4)
    arrays = {"x_train": pictures, "y_train": labels, "x_test": pictures, "y_test": labels}
    seeds = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        seeds.append(file.getvalue())
    return seeds


def _archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as packed:
        member = tarfile.TarInfo("data/labels")
        member.size = 5
        packed.addfile(member, io.BytesIO(b"12345"))
    return file.getvalue()


def _checkpoint_job(folder: Path) -> Job:
    return msgspec.structs.replace(JOB, checkpoint=str(folder / "checkpoints"))


def _checkpoint(folder: Path) -> bytes:
    job = _checkpoint_job(folder)
    write_checkpoint(job, 0, 1, {"modules": {"part": {"w": torch.zeros(3)}}, "optimizer": {}, "steps": 4, "family": {}})
    return checkpoint_path(job, 0, 1).read_bytes()


def _reading_checkpoint(folder: Path):
    job = _checkpoint_job(folder)
    return checkpoint_path(job, 0, 1), lambda _path: read_checkpoint(job, 0, 1, torch.device("cpu"))
