"""Processes that are killed, stopped or fail, at any moment: the run ends, says which, and leaves nothing."""

import asyncio
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import torch
from jobs import small_job
from promises import see

from bench.live import processes, run
from bench.live import training as live
from bench.live.processes import RunError
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.model.checkpoint import checkpoint_path
from nodes.spec.job import DataSpec, Job, StageSpec
from nodes.wire.channel import memory_pair
from nodes.wire.messages import Configure, Shutdown

run_live = functools.partial(live.run_live, self_test="skip")  # a busy machine is no fault here
LINK = LinkProfile(rate_bps=200e6)
LINKS = [Duplex(up=LINK, down=LINK), Duplex()]
ENDLESS = 100_000
TRIES = 3
PATIENCE_S = 60  # only a test that fails waits so long
PLAIN = StageSpec()


def job(folder: Path, stage: StageSpec = PLAIN, **more) -> Job:
    return small_job(3, 6, stages=(stage, stage), checkpoint=str(folder), **more)


def mine(node: str, moment: str, effect: str) -> StageSpec:
    return StageSpec(name="mines:Mine", options={"node": node, "moment": moment, "effect": effect})


def process(name: str) -> psutil.Process:
    """The launcher or node called so."""
    (found,) = [p for p in psutil.Process().children(recursive=True) if p.name() == name]
    return found


def emulator() -> psutil.Process:
    (found,) = [p for p in psutil.Process().children() if p.cmdline()[-1:] == ["netem.emulate"]]
    return found


class Once:
    """Something to do when the UE first reports an epoch, and the time since."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._done_at: float | None = None

    def __call__(self, metrics: dict[str, float]) -> None:
        if self._done_at is None:
            self._done_at = time.monotonic()
            self._act()

    @property
    def ago_s(self) -> float:
        return time.monotonic() - self._done_at


def error_of(*arguments, **more) -> str:
    with pytest.raises(RunError) as raised:
        run_live(*arguments, **more)
    assert nodes_left() == []
    see(str(raised.value).partition(": ")[0])
    return str(raised.value)


def nodes_left() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.name() in ("ue", "mec", "cloud")]


def assert_runs(folder: Path) -> None:
    """The next run of this process works."""
    assert len(run_live(job(folder)).losses) == 2


def soonest_s(act: Callable[[], None], said: str, folder: Path, within_s: float) -> float:
    """From ``act`` until the run ends and says so; the least of a few, as other work only makes it later."""
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=within_s) >= within_s:
        once = Once(act)
        assert error_of(job(folder, epochs=ENDLESS), say=once) == said
        taken.append(once.ago_s)
    return min(taken)


@pytest.mark.parametrize("node", ["ue", "mec", "cloud"])
@pytest.mark.promise(
    "Nodes", "a node of a chain is killed as it trains", "the run ends within 3 s and names it; the next run works"
)
def test_a_killed_node_is_named_within_three_seconds(node, tmp_path):
    assert soonest_s(lambda: process(node).kill(), f"{node} was killed by SIGKILL", tmp_path, 3) < 3
    assert_runs(tmp_path / "next")


@pytest.mark.parametrize("node", ["ue", "mec", "cloud"])
@pytest.mark.parametrize("moment", ["build", "train", "test"])
@pytest.mark.promise("Nodes", "a node of a chain is killed as it builds, trains or tests", "the run ends and names it")
def test_a_node_killed_at_any_moment_is_named(node, moment, tmp_path):
    assert error_of(job(tmp_path, mine(node, moment, "kill"))) == f"{node} was killed by SIGKILL"


@pytest.mark.promise("Nodes", "a node of a chain is killed before it knows its job", "the run ends and names it")
def test_a_node_killed_before_it_is_configured_is_named(tmp_path, monkeypatch):
    attend = run.LiveRun._attend

    async def kill_and_attend(self, name, setup):
        if name == "mec":
            process("mec").kill()
        await attend(self, name, setup)

    monkeypatch.setattr(run.LiveRun, "_attend", kill_and_attend)
    assert error_of(job(tmp_path)) == "mec was killed by SIGKILL"


def test_a_node_killed_before_it_listens_is_named(tmp_path, monkeypatch):
    assert_runs(tmp_path / "before")
    send = processes.LauncherProcess.send

    def start_and_kill(self, **command):
        if command["do"] == "start":
            process("launcher").suspend()
        send(self, **command)
        if command["do"] == "start":
            os.kill(process("launcher").pid, signal.SIGCONT)
            while not nodes_left():
                pass
            process("ue").kill()

    monkeypatch.setattr(processes.LauncherProcess, "send", start_and_kill)
    assert error_of(job(tmp_path)) == "ue was killed by SIGKILL"


@pytest.mark.promise(
    "Nodes", "a node of a chain is killed as the run ends", "the run ends, finished or with the node's name"
)
def test_a_node_killed_at_the_end_hangs_nothing(tmp_path):
    error = None
    try:
        assert len(run_live(job(tmp_path), say=Once(lambda: process("cloud").kill())).losses) == 2
    except RunError as raised:  # unless all had reported before
        error = str(raised)
    assert error in (None, "cloud was killed by SIGKILL")
    assert nodes_left() == []


async def test_a_runner_that_stood_still_hears_what_has_come_meanwhile():
    loop = asyncio.get_running_loop()
    ours, theirs = memory_pair("runner", "ue")
    reading, writing = socket.socketpair()

    def arrived() -> None:
        loop.remove_reader(reading)
        sending.append(loop.create_task(theirs.send(Shutdown())))

    def stand_still() -> None:
        writing.send(b"x")
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass

    sending: list[asyncio.Task] = []
    loop.add_reader(reading, arrived)
    loop.call_soon(stand_still)
    with reading, writing:
        assert isinstance(await run.hear(ours, 0.1), Shutdown)
        await sending[0]


@pytest.mark.promise(
    "Nodes",
    "a node of a chain is stopped (SIGSTOP) as it trains",
    "the run ends within 15 s and names it; the next run works",
)
def test_a_stopped_node_is_named_within_fifteen_seconds(tmp_path, monkeypatch):
    rest_s = 15 - run.SILENCE_S  # for all that comes after the silence, which is shorter here
    monkeypatch.setattr(run, "SILENCE_S", 4.0)
    said = "mec has not been heard of for 4 s"
    assert soonest_s(lambda: process("mec").suspend(), said, tmp_path, 4 + rest_s) < 4 + rest_s
    assert_runs(tmp_path / "next")


@pytest.mark.parametrize(("node", "moment"), [("ue", "test"), ("cloud", "build")])
@pytest.mark.promise("Nodes", "a node of a chain is stopped as it builds or tests", "the run ends and names it")
def test_a_node_stopped_at_any_moment_is_named(node, moment, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SILENCE_S", 4.0)
    assert error_of(job(tmp_path, mine(node, moment, "stop"))) == f"{node} has not been heard of for 4 s"


@pytest.mark.parametrize(
    ("effect", "error"),
    [
        ("memory", "mec: RuntimeError: out of memory: tried to allocate 64 GiB"),
        ("exit", "mec ended with code 0"),
        ("leave", r"mec: UserExitError: .*mines\.py:\d+: the code raised SystemExit\(7\), .*"),
    ],
)
@pytest.mark.parametrize("moment", ["train", "test"])
@pytest.mark.promise(
    "Nodes", "a node runs out of memory, or its process ends", "the run ends with the node and the reason"
)
def test_a_node_that_fails_is_named_with_the_reason(effect, moment, error, tmp_path):
    assert re.fullmatch(error, error_of(job(tmp_path, mine("mec", moment, effect))))


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"stage": mine("mec", "build", "memory")}, "mec: ModelError: .*out of memory: .*"),
        (
            {"stage": mine("mec", "build", "leave")},
            r"mec: ModelError: .*mines\.py:\d+: the code raised SystemExit\(7\).*",
        ),
        ({"stage": StageSpec(name="mines:Unsendable")}, r"ue: FrameError: a tensor of torch.float64 .*"),
        ({"data": DataSpec(name="cifar10")}, "ue: DataError: cifar10: .*"),
        ({"splits": (3, 99)}, "(ue|mec|cloud): ModelError: .*"),
        ({"payload_bytes": 1000}, "(ue lost mec|mec lost ue): .*payload of .*"),
    ],
)
def test_whatever_fails_ends_the_run_in_one_line(what, error, tmp_path):
    said = error_of(job(tmp_path, **what))
    assert re.fullmatch(error, said), said  # a dot matches no line's end
    assert_runs(tmp_path / "next")


def test_what_the_listener_raises_comes_out_as_it_is(tmp_path):
    def say(metrics: dict[str, float]) -> None:
        raise ZeroDivisionError("of the listener")

    with pytest.raises(ZeroDivisionError, match="of the listener"):
        run_live(job(tmp_path), say=say)
    assert nodes_left() == []
    assert_runs(tmp_path / "next")


def test_an_interrupt_is_the_runner_s_to_act_on(tmp_path):
    def interrupt() -> None:
        for name in ("launcher", "ue", "mec", "cloud"):
            process(name).send_signal(signal.SIGINT)

    assert len(run_live(job(tmp_path, epochs=5), say=Once(interrupt)).losses) == 10


def killed_with_launcher() -> list[psutil.Process]:
    """The nodes of a launcher that is killed now."""
    nodes = [process(name) for name in ("ue", "mec", "cloud")]
    process("launcher").kill()
    return nodes


@pytest.mark.promise("Nodes", "the process that starts nodes is killed", "the run ends and names it; no node is left")
def test_a_killed_launcher_ends_the_run_and_its_nodes(tmp_path):
    nodes: list[psutil.Process] = []
    kill = Once(lambda: nodes.extend(killed_with_launcher()))
    error = error_of(job(tmp_path, epochs=ENDLESS), say=kill)
    assert error == "the node launcher was killed by SIGKILL"
    assert psutil.wait_procs(nodes, timeout=PATIENCE_S)[1] == []
    assert_runs(tmp_path / "next")


def test_a_killed_launcher_ends_nodes_that_know_no_runner_yet(tmp_path, monkeypatch):
    nodes: list[psutil.Process] = []

    async def kill_and_wait(live: run.LiveRun, name: str, setup: Configure) -> None:
        if not nodes:
            nodes.extend(killed_with_launcher())

    monkeypatch.setattr(run.LiveRun, "_attend", kill_and_wait)
    assert error_of(job(tmp_path)) == "the node launcher was killed by SIGKILL"
    assert psutil.wait_procs(nodes, timeout=PATIENCE_S)[1] == []


def test_a_launcher_that_cannot_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_launcher", None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="the node launcher ended with code 1"):
        run_live(job(tmp_path))


@pytest.mark.promise("Links", "the link emulator is killed", "the run ends and names it; the next run works")
def test_a_killed_emulator_is_named(tmp_path):
    error = error_of(job(tmp_path, epochs=ENDLESS), LINKS, Once(lambda: emulator().kill()))
    assert error.startswith("the link emulator")
    assert_runs(tmp_path / "next")


# -- the runner itself ends

RUNNER = """
import sys, msgspec
from bench.live.training import run_live
from nodes.spec.job import Job
from netem.profiles import Duplex
job, links = (msgspec.json.decode(text, type=kind) for text, kind in zip(sys.argv[1:], (Job, list[Duplex])))
print("begins", flush=True)
run_live(job, links, say=lambda metrics: print("epoch", flush=True), self_test="skip")
"""
MARK = "LIVE_FAULTS_MARK"


class Runner:
    """A runner in a process of its own, and all that comes of it."""

    def __init__(self, job: Job, links: list[Duplex], folder: Path) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._mark = uuid.uuid4().hex
        arguments = [msgspec.json.encode(value).decode() for value in (job, links)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {MARK: self._mark, "TMPDIR": str(self.temporary)},
        )

    def wait_for(self, *lines: str) -> None:
        for line in lines:
            assert self.process.stdout.readline() == line + "\n"

    def family(self) -> list[psutil.Process]:
        """All processes that inherited our mark; their parents may be gone."""
        found = []
        for other in psutil.process_iter():
            try:
                if other.environ().get(MARK) == self._mark:
                    found.append(other)
            except psutil.Error:
                pass
        return found

    def close(self) -> None:
        for other in self.family():
            other.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Runner]]:
    runners: list[Runner] = []

    def start(*arguments) -> Runner:
        runners.append(Runner(*arguments))
        return runners[-1]

    yield start
    for runner in runners:
        runner.close()


ENDS = {
    "Ctrl-C at the runner": lambda pid: os.kill(pid, signal.SIGINT),
    "Ctrl-C in the terminal": lambda pid: os.killpg(pid, signal.SIGINT),
    "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),
}


@pytest.mark.parametrize(
    ("how", "moment"),
    [("Ctrl-C at the runner", ["begins"]), ("SIGKILL", ["begins"]), ("Ctrl-C in the terminal", ["begins", "epoch"])],
)
@pytest.mark.promise(
    "Runner and workers",
    "the runner is killed or interrupted, at the beginning or in training",
    "no process, port or temporary file is left",
)
def test_a_runner_that_ends_leaves_nothing(how, moment, start, tmp_path):
    runner = start(job(tmp_path / "checkpoints", epochs=ENDLESS), LINKS, tmp_path)
    runner.wait_for(*moment)
    assert_ends_and_leaves_nothing(runner, how, training="epoch" in moment)


def assert_ends_and_leaves_nothing(runner: Runner, how: str, training: bool) -> None:
    family = runner.family()
    listening = [
        connection.laddr.port
        for member in family
        for connection in member.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    # Runner, launcher, emulator and three nodes; the nodes and a link listen.
    assert not training or (len(family), len(listening)) == (6, 4)
    ENDS[how](runner.process.pid)
    assert runner.process.wait(PATIENCE_S) == (-signal.SIGKILL if how == "SIGKILL" else -signal.SIGINT)
    deadline = time.monotonic() + PATIENCE_S
    while (left := runner.family()) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=deadline - time.monotonic())
    assert left == []
    assert [port for port in listening if listens(port)] == []
    cache = "torchinductor_"  # a folder that importing torch makes, once for all runs of a user
    assert [path for path in runner.temporary.iterdir() if not path.name.startswith(cache)] == []


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- what was saved is gone on from


def saved(job: Job) -> list[torch.Tensor]:
    parts = [torch.load(checkpoint_path(job, index, job.epochs), weights_only=True) for index in range(3)]
    return [tensor for part in parts for tensor in part["modules"]["part"].values()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Job:
    whole = job(tmp_path_factory.mktemp("whole"), epochs=6)
    run_live(whole)
    return whole


def assert_same_end(resumed: Job, uninterrupted: Job) -> None:
    pairs = zip(saved(resumed), saved(uninterrupted), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.promise(
    "Nodes", "a chain goes on after one of its nodes was killed", "weights equal to an undisturbed run, bit for bit"
)
def test_a_run_whose_node_was_killed_is_resumed(uninterrupted, tmp_path):
    split = job(tmp_path, epochs=6)
    assert error_of(split, say=Once(lambda: process("mec").kill())) == "mec was killed by SIGKILL"
    assert not checkpoint_path(split, 0, 6).exists()
    assert run_live(split).epochs[0]["epoch"] > 1
    assert_same_end(split, uninterrupted)


@pytest.mark.promise(
    "Runner and workers",
    "a chain goes on after the runner was killed",
    "weights equal to an undisturbed run, bit for bit",
)
def test_a_run_whose_runner_was_killed_leaves_nothing_and_is_resumed(uninterrupted, start, tmp_path):
    split = job(tmp_path / "checkpoints", epochs=6)
    runner = start(split, LINKS, tmp_path)
    runner.wait_for("begins", "epoch", "epoch")
    assert_ends_and_leaves_nothing(runner, "SIGKILL", training=True)
    assert not checkpoint_path(split, 0, 6).exists()
    assert run_live(split).epochs[0]["epoch"] > 1
    assert_same_end(split, uninterrupted)


@pytest.mark.parametrize("name", ["ue2", "cloud"])
@pytest.mark.promise("Nodes", "a UE or the server of sequential split learning is killed", "the run ends and names it")
def test_a_source_or_the_server_of_many_killed_is_named(name):
    many = small_job(3, data=DataSpec(train_samples=48, test_samples=6), epochs=ENDLESS, sources=3)
    assert error_of(many, say=Once(lambda: process(name).kill())) == f"{name} was killed by SIGKILL"
    assert not [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ue")]
