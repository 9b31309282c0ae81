"""``bench node``: one node on this machine, started by hand, as a service, or by a run on another machine."""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench.live.hosts.document import NEEDED_TOKEN, TOKEN_VARIABLE, is_loopback, token_of_environment, usable_token
from bench.suite.document import InputError
from netem.proxy import authority
from nodes.imports import modules_allowed
from nodes.process.standby import await_runner
from nodes.spec.credentials import Credentials, is_of_node
from nodes.wire.tls import tls_of


def run_node(  # noqa: PLR0917 (the arguments of the command)
    name: str,
    host: str = "127.0.0.1",
    port: int = 0,
    once: bool = False,
    attached: bool = False,
    standby: bool = False,
    tls: Path | None = None,
    insecure: bool = False,
    allow: Sequence[str] = (),
) -> int:
    """Serve as node ``name``, one run after the other or ``once``; returns 0, or 1 if the last run failed.

    Prints the address that it listens on, and whom it serves. The environment variable BENCH_TOKEN has the runner's
    secret, or the node's credentials made of it; ``attached``, the first line of standard input has, with whose end the
    node ends. SIGTERM ends it as well, also during a job, of which the runner is told. On ``standby`` torch is loaded
    for the first runner. ``tls`` is the folder of its certificate. Models, stages and schemes are built-in ones, those
    of installed packages that register them, and those of the modules ``allow``. Raises InputError if there is no
    token, or if the node cannot listen.
    """
    if not name.strip() or not name.isprintable():
        raise InputError([f"NAME: {name!r} is not a name of a node; give one such as mec1"])
    if not (tls or insecure or is_loopback(host)):
        raise InputError([f"--host: {host} is reached by other machines; give --tls, or --insecure"])
    try:
        secured = None if tls is None else tls_of(tls)
    except ValueError as error:
        raise InputError([f"--tls: {error}"]) from None
    credentials = _credentials(name, _token_of_input() if attached else token_of_environment(), attached)
    whom = f"the runner with {'its credentials' if attached else TOKEN_VARIABLE}{' and its certificate' if tls else ''}"

    bound_port = port

    def announce(bound: int) -> None:
        nonlocal bound_port
        bound_port = bound
        print(f"{name} listens at {authority(host, bound)}", flush=True)
        print(f"{name} serves {whom}; modules: {', '.join(('built-in', *allow))}", flush=True)

    async def serve_until_told(listening: socket.socket | None) -> bool:
        from nodes.process.attendance import SILENCE_S  # noqa: PLC0415
        from nodes.process.serve import serve  # noqa: PLC0415  (torch, which takes most of the memory)
        from nodes.runtime.executors import StuckThreadError  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        how: dict[str, Any] = {"jobs": 1 if once else None, "silence_s": SILENCE_S, "tls": secured}
        told = announce if listening is None else lambda _: None
        serving = asyncio.create_task(serve(name, credentials, host, port, told, listening=listening, **how))
        loop.add_signal_handler(signal.SIGTERM, serving.cancel)
        if attached:
            threading.Thread(target=_await_end_of_input, args=(loop, serving), daemon=True).start()
        try:
            return await serving
        except asyncio.CancelledError:
            return True
        except StuckThreadError as error:
            ends = once or attached or serving.cancelling() > 0
            print(f"{name}: {error}; the process {'ends' if ends else 'starts anew'}", file=sys.stderr, flush=True)
            if ends:
                os._exit(1)  # an ordinary exit would wait for the thread
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--port", str(bound_port)])

    try:
        listening = _stand_by(name, host, port, announce) if standby else None
        with modules_allowed(allow):
            well = uvloop.run(serve_until_told(listening))
    except OSError as error:
        raise InputError([f"{authority(host, port)}: {error.strerror or error}"]) from None
    return int(not well)


def _stand_by(name: str, host: str, port: int, announce: Callable[[int], None]) -> socket.socket:
    """A socket that listens, once a runner has come. Raises OSError."""
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    announce(listening.getsockname()[1])
    await_runner(listening, name)
    return listening


def _credentials(name: str, token: str, attached: bool) -> Credentials:
    """What ``token`` is or gives for node ``name``. Raises InputError."""
    try:
        return Credentials.read(token) if is_of_node(token) else Credentials.of(token, name)
    except ValueError as error:
        raise InputError([f"{'standard input' if attached else TOKEN_VARIABLE}: {error}"]) from None


def _token_of_input() -> str:
    token = sys.stdin.readline().rstrip("\n")
    if not usable_token(token):
        raise InputError([f"--attached: the first line of standard input needs {NEEDED_TOKEN}"])
    return token


def _await_end_of_input(loop: asyncio.AbstractEventLoop, serving: "asyncio.Future[bool]") -> None:
    """Cancel ``serving`` once this process's runner closes the input, or is gone."""
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(serving.cancel)
