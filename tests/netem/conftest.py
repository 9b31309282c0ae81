"""Guest kernel fixture. The guest runs for most of a minute, mostly waiting, so it runs beside the other tests.

It boots with the first test of this folder, if a selected test needs it; the tests that need it are sorted last.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

LINUX = shutil.which("linux.uml")
GUEST = Path(__file__).parent / "support" / "uml_guest.py"
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONPATH='{path}'
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
'{python}' '{guest}'
echo o > /proc/sysrq-trigger
sleep 5
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_needs_guest)


def _needs_guest(item: pytest.Item) -> bool:
    return item.get_closest_marker("uml") is not None


@pytest.fixture(scope="session", autouse=True)
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float], str]]:
    """Function that waits up to the given seconds for the guest to end and returns its output."""
    if LINUX is None or not any(map(_needs_guest, request.session.items)):
        yield lambda timeout_s: ""
        return
    folder = tmp_path_factory.mktemp("uml")
    init, output = folder / "init.sh", folder / "output"
    init.write_text(INIT.format(python=sys.executable, guest=GUEST, path=os.pathsep.join(filter(None, sys.path))))
    init.chmod(0o755)
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                *(LINUX, "mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}"),
                *("con=null", "con0=fd:0,fd:1", "quiet", f"uml_dir={folder}/"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with suppress(OSError):  # ahead of other processes, where permitted
        os.sched_setscheduler(process.pid, os.SCHED_RR, os.sched_param(1))

    def ended(timeout_s: float) -> str:
        process.wait(timeout_s)
        return output.read_text(errors="replace")

    yield ended
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
