"""Where do a run's node processes come from? From one server that has imported torch and forks them.

It must never run a tensor operation, start a thread or a loop itself: a fork after that can hang. Commands come
as JSON lines on standard input, events go as JSON lines to standard output. It is the nodes' parent, so it sees
each of them end; when its input ends (the runner is gone, however), it kills them all. Each node also ends by
itself when the runner's end of the ``alive`` pipe closes, whatever has become of this process.
"""

import gc
import json
import os
import select
import signal
import sys
from typing import Any

import nodes.serve  # imports torch, once for all nodes


def main(alive: int) -> None:
    """Fork nodes as told, until standard input ends."""
    __import__("torchvision")
    gc.freeze()  # pages of what is imported stay shared
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    names: dict[int, str] = {}
    pending = b""
    tell(event="ready")
    try:
        while True:
            readable, _, _ = select.select([0, wake_read], [], [])
            if wake_read in readable:
                os.read(wake_read, 4096)
                _reap(names)
            if 0 in readable:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _obey(json.loads(line), names, alive, (wake_read, wake_write))
    finally:
        for pid in names:
            os.kill(pid, signal.SIGKILL)


def tell(**event: Any) -> None:
    """Write one event. Short lines are written whole, also when nodes write at the same time."""
    os.write(1, json.dumps(event).encode() + b"\n")


def _obey(command: dict[str, Any], names: dict[int, str], alive: int, wake: tuple[int, int]) -> None:
    if command["do"] == "kill":
        for pid in command["pids"]:
            if pid in names:  # else it has ended, and the number may be another's by now
                os.kill(pid, signal.SIGKILL)
        return
    for name in command["names"]:
        pid = os.fork()
        if pid == 0:
            _become_node(name, command["token"], alive, wake)
        names[pid] = name


def _reap(names: dict[int, str]) -> None:
    for pid in list(names):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            tell(event="ended", node=names.pop(pid), pid=pid, code=os.waitstatus_to_exitcode(status))


def _become_node(name: str, token: str, alive: int, wake: tuple[int, int]) -> None:
    """Run as node ``name``; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in (0, *wake):
            os.close(fd)
        os.open(os.devnull, os.O_RDONLY)
        code = _run_node(name, token, alive)
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def _run_node(name: str, token: str, alive: int) -> int:
    import asyncio  # noqa: PLC0415  (in the child: the server itself has no loop)

    import uvloop  # noqa: PLC0415

    async def node() -> bool:
        asyncio.get_running_loop().add_reader(alive, os._exit, 1)
        announce = lambda port: tell(event="listening", node=name, pid=os.getpid(), port=port)  # noqa: E731
        return await nodes.serve.serve(name, token, "127.0.0.1", 0, announce, jobs=1)

    return 0 if uvloop.run(node()) else 1


if __name__ == "__main__":
    main(int(sys.argv[1]))
