"""Links that are cut, for a while and for good, a peer that reads nothing for a while, and few descriptors."""

import itertools
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from jobs import small_job
from promises import see

from bench.live import processes, shaping
from bench.live.processes import RunError
from bench.live.training import run_live
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.training.in_process import run_in_process

LINK = LinkProfile(rate_bps=200e6)
LINKS = [Duplex(up=LINK, down=LINK), Duplex()]
PAUSE_S = 1.5
SILENT_S = 2.0


def emulates() -> psutil.Process:
    (found,) = [child for child in psutil.Process().children() if child.cmdline()[-1:] == ["netem.emulate"]]
    return found


def cloud() -> psutil.Process:
    (found,) = [child for child in psutil.Process().children(recursive=True) if child.name() == "cloud"]
    return found


def stops(*processes: Callable[[], psutil.Process], pause_s: float | None = None) -> Callable[[object], None]:
    """At each epoch's report, stops the next of ``processes``, for so long (None: for good)."""
    following = iter(processes)

    def say(metrics: object) -> None:
        for process in itertools.islice(following, 1):
            stopped = process()
            stopped.suspend()
            if pause_s is not None:
                threading.Timer(pause_s, stopped.resume).start()

    return say


@pytest.mark.promise(
    "Links",
    "a link carries nothing for 1.5 s (its emulator is stopped), then the node behind it reads nothing for as long",
    "the run goes on; its losses are those of an undisturbed one, bit for bit",
)
def test_a_link_that_is_cut_for_a_while_changes_no_loss() -> None:
    job = small_job(3, 6, epochs=4)
    began = time.monotonic()
    outcome = run_live(job, LINKS, stops(emulates, cloud, pause_s=PAUSE_S), self_test="skip")
    assert time.monotonic() - began > 2 * PAUSE_S
    assert outcome.losses == run_in_process(job).losses
    see(f"{len(outcome.losses)} of {len(outcome.losses)} losses equal")


@pytest.mark.promise(
    "Links", "a link is cut for good (its emulator is stopped)", "the run ends within seconds and names it"
)
def test_a_link_that_is_cut_for_good_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "SILENCE_S", SILENT_S)
    with pytest.raises(RunError) as raised:
        run_live(small_job(3, 6, epochs=9999), LINKS, stops(emulates), self_test="skip")
    see(str(raised.value))
    assert str(raised.value) == f"the link emulator did not answer for {SILENT_S:g} s"
    assert not [child for child in psutil.Process().children() if child.cmdline()[-1:] == ["netem.emulate"]]


@pytest.fixture
def _few_descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(processes, "_launcher", None)  # as the nodes inherit the limit
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_few_descriptors")
@pytest.mark.promise("Machine", "each process may open 64 descriptors", "a chain of three nodes trains as ever")
def test_a_chain_needs_few_descriptors() -> None:
    assert len(os.listdir("/proc/self/fd")) < 64
    job = small_job(3, 6)
    assert run_live(job, LINKS, self_test="skip").losses == run_in_process(job).losses
