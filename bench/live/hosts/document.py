"""The machines that nodes run on: ``hosts.yaml``, read strictly."""

import ipaddress
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bench.suite.document import Document, InputError, read
from bench.suite.strict_yaml import convert
from netem.proxy import authority
from nodes.spec.credentials import is_of_node
from nodes.wire.tls import Tls, tls_of

TOKEN_VARIABLE = "BENCH_TOKEN"
LEAST_TOKEN_CHARACTERS = 16
NEEDED_TOKEN = f"at least {LEAST_TOKEN_CHARACTERS} printable ASCII characters"

NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
NodeName = Annotated[str, msgspec.Meta(pattern=f"^{NODE_NAME.pattern}$")]
HostPort = tuple[str, int]


class HostSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node: where it listens, as host:port, and how it is started.

    By hand it runs before the run, or is started while the run waits. By ``ssh`` the run starts it: ``command`` are the
    words before ``node NAME``, such as ``ssh pi@mec.lan bench``. ``tls`` is the folder of its certificate there.
    """

    address: str
    start: Literal["hand", "ssh"] = "hand"
    command: str | None = None
    tls: str | None = None


class HostsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``hosts.yaml``: nodes by name, and how long to wait for them.

    ``tls`` is the folder of the runner's certificate, from that of the file; without it nothing is encrypted.
    """

    nodes: Annotated[dict[NodeName, HostSpec], msgspec.Meta(min_length=1)]
    wait_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0
    tls: str | None = None


class HostMeasurement(msgspec.Struct):
    """What was measured of a host: its clock against the runner's, and the network's round trips from it."""

    clock_offset_s: float  # by which its clock (of unknown origin) is ahead
    clock_uncertainty_s: float  # half of the least round trip: the offset is off by no more
    round_trip_s: dict[str, float] = {}  # to the nodes that a link leads to, below the emulated link


@dataclass(frozen=True)
class NodeHost:
    """A node on a machine; ``command`` starts it there, None: it is started by hand."""

    name: str
    address: HostPort
    command: tuple[str, ...] | None
    tls: str | None = None  # the folder of its certificate there

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``bench`` that start the node."""
        host, port = self.address
        secured = [] if self.tls is None else ["--tls", self.tls]
        return ["node", self.name, "--host", host, "--port", str(port), *secured]

    @property
    def by_hand(self) -> str:
        """The command line that starts the node on its machine."""
        return shlex.join(["bench", *self.arguments])


@dataclass(frozen=True)
class Hosts:
    """The machines of a run; ``token`` is what its nodes share, None: one is made for each live run."""

    path: Path
    nodes: dict[str, NodeHost]
    wait_s: float
    token: str | None = field(repr=False)
    tls: Tls | None = field(default=None, repr=False)
    measured: dict[str, HostMeasurement] = field(default_factory=dict)

    @property
    def addresses(self) -> dict[str, str]:
        """The address of every node, as environment.json has it."""
        return {name: authority(*node.address) for name, node in self.nodes.items()}

    @property
    def lines(self) -> Iterator[str]:
        """What the user has to do, and what the run does by itself."""
        for name, node in self.nodes.items():
            if node.command is None:
                yield f"node {name}: waits at most {self.wait_s:g} s; on its machine: {node.by_hand}"
            else:
                yield f"node {name}: started by {shlex.join(node.command)}"


def read_hosts(path: Path, insecure: bool = False) -> Hosts:
    """The machines that ``path`` names. Raises InputError with file, line and key of every error."""
    document = read(path)
    file = convert(document, HostsFile)
    nodes = {} if file is None else dict(_nodes(document, file))
    by_hand = [name for name, node in nodes.items() if node.command is None]
    for name, node in nodes.items():
        if not insecure and file is not None and file.tls is None and not is_loopback(node.address[0]):
            document.problem(("nodes", name, "address"), UNSAFE)
    tls = None if file is None else _tls(document, file)
    document.check()
    assert file is not None
    return Hosts(path, nodes, file.wait_s, secret_of_environment() if by_hand else None, tls)


def _tls(document: Document, file: HostsFile) -> Tls | None:
    """The contexts of the runner, if connections are over TLS."""
    for name, spec in file.nodes.items():
        if file.tls is None and spec.tls is not None:
            document.problem(("nodes", name, "tls"), "only used where the runner has tls too")
        if file.tls is not None and spec.tls is None:
            document.problem(("nodes", name), f"needs tls, the folder on its machine that bench certs node {name} made")
    if file.tls is not None:
        try:
            return tls_of(document.path.parent / file.tls)
        except ValueError as error:
            document.problem(("tls",), str(error))
    return None


UNSAFE = "without tls only loopback addresses are used; give --insecure in a network that nobody else can reach"


def _nodes(document: Document, file: HostsFile) -> Iterator[tuple[str, NodeHost]]:
    taken: dict[HostPort, str] = {}
    for name, spec in file.nodes.items():
        key = ("nodes", name)
        try:
            address = host_port(spec.address)
            command = _command(spec)
        except _WrongError as error:
            document.problem((*key, error.key), str(error))
            continue
        if address in taken:
            document.problem((*key, "address"), f"{spec.address} is the address of {taken[address]} already")
        taken[address] = name
        yield name, NodeHost(name, address, command, spec.tls)


class _WrongError(ValueError):
    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


def host_port(text: str) -> HostPort:
    """``host:port`` or ``[IPv6]:port`` apart. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (":" in bare) != (host != bare) or not bare or any(one.isspace() for one in bare):
        colon = ""
    if not colon or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise _WrongError("address", f"got {text!r}, expected host:port such as 10.0.0.2:4000, or [2001:db8::2]:4000")
    return bare, int(port)


def _command(spec: HostSpec) -> tuple[str, ...] | None:
    if spec.start == "hand":
        if spec.command is not None:
            raise _WrongError("command", "only used with start: ssh; a node by hand is started by its user")
        return None
    if not (spec.command or "").strip():
        raise _WrongError("command", "start: ssh needs a command, such as ssh pi@mec.lan bench")
    try:
        return tuple(shlex.split(spec.command or ""))
    except ValueError as error:
        raise _WrongError("command", f"is no command line: {error}") from None


def secret_of_environment() -> str:
    """The runner's secret. Raises InputError."""
    if is_of_node(token := token_of_environment()):
        raise InputError([f"{TOKEN_VARIABLE}: is the credentials of one node, expected the secret they were made of"])
    return token


def token_of_environment() -> str:
    """The secret of the runner of nodes started by hand, or the credentials of a node. Raises InputError."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not usable_token(token):
        raise InputError([f"{TOKEN_VARIABLE}: needs {NEEDED_TOKEN}, the same for all nodes and the runner"])
    return token


def usable_token(token: str) -> bool:
    return len(token) >= LEAST_TOKEN_CHARACTERS and token.isascii() and token.isprintable()


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine's own loopback, which no other machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
