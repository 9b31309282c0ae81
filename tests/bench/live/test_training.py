"""Chains of real processes against the same jobs in this process: equal losses, parameters and bytes."""

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch
from jobs import NAMES, small_job

from bench.cli.node import run_node
from bench.live.hosts.document import TOKEN_VARIABLE
from bench.live.processes import LauncherProcess, RunError
from bench.live.training import run_live
from bench.suite.document import InputError
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.model.checkpoint import checkpoint_path
from nodes.model.factory import outline
from nodes.spec.job import DataSpec, Device, Job, OptimizerSpec, StageSpec, Timing
from nodes.training.in_process import run_in_process
from nodes.training.report import TrainingOutcome

NETWORK = "nodes.zoo.small_cnn:small_cnn"  # has batch norm and dropout
OWN_THREADS = torch.get_num_threads()
MINED = (StageSpec(), StageSpec(name="no_such_module:stage"))


def job(nodes: int, folder: Path, model: str = NETWORK, batches: int = 5, batch_size: int = 8, **more) -> Job:
    splits = tuple(layers_of(model) * (index + 1) // (nodes + 1) for index in range(nodes - 1))
    fields = {"model": model, "batch_size": batch_size, "checkpoint": str(folder), "splits": splits}
    data = DataSpec(train_samples=batches * batch_size, test_samples=20)
    optimizer = OptimizerSpec(lr=0.02, momentum=0.9, weight_decay=5e-4)
    return small_job(*splits, data=data, optimizer=optimizer, **fields | more)


@cache
def layers_of(model: str) -> int:
    return len(outline(model, 10, (3, 32, 32)))


@pytest.fixture(autouse=True)
def _thread_count_stays() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def saved(job: Job, epoch: int = 1) -> dict[str, torch.Tensor]:
    """All parameters and buffers of the model, from the nodes' checkpoints."""
    state: dict[str, torch.Tensor] = {}
    for index in range(len(job.nodes)):
        part = torch.load(checkpoint_path(job, index, epoch), weights_only=True)["modules"].get("part", {})
        assert not state.keys() & part.keys()
        state |= part
    return state


def assert_equal(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert state.keys() == other.keys()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


def assert_counted(live: TrainingOutcome, model: TrainingOutcome) -> None:
    """Frames are those of the in-process run, and the kernel saw acknowledged all that was written."""
    assert [(n.name, n.sent_downlink, n.sent_uplink) for n in live.nodes] == [
        (n.name, n.sent_downlink, n.sent_uplink) for n in model.nodes
    ]
    for index, node in enumerate(live.nodes):
        neighbours = [live.nodes[at].name for at in (index - 1, index + 1) if 0 <= at < len(live.nodes)]
        assert Counter((link.peer, link.kind) for link in node.connections) == Counter(
            (peer, kind) for peer in neighbours for kind in ("websocket", "bulk")
        )
        for link in node.connections:
            assert link.written_bytes == link.acked_bytes
        framed = [*node.sent_downlink.values(), *node.sent_uplink.values()]
        least = sum(traffic.header_bytes + traffic.payload_bytes for traffic in framed)
        assert sum(link.written_bytes for link in node.connections) > least


@pytest.fixture(scope="module")
def trained_whole(tmp_path_factory) -> Callable[..., tuple[Job, TrainingOutcome]]:
    """The unsplit model's job and what came of it, once for all its chains."""

    @cache
    def train(model: str, batches: int, batch_size: int) -> tuple[Job, TrainingOutcome]:
        unsplit = job(1, tmp_path_factory.mktemp("unsplit"), model, batches, batch_size)
        return unsplit, run_in_process(unsplit)

    return train


@pytest.mark.parametrize("nodes", [2, 3, 5])
@pytest.mark.parametrize(
    "what",
    [("resnet18", 6, 4), ("user_models:narrow_vgg11_bn", 6, 4), (NETWORK, 5, 8), ("user_models:Permuting", 5, 8)],
    ids=["resnet18", "vgg11", "small", "permuting"],
)
def test_a_chain_of_processes_trains_as_the_unsplit_model(what, nodes, trained_whole, tmp_path):
    model, batches, batch_size = what
    split = job(nodes, tmp_path / "live", model, batches, batch_size)
    (unsplit, alone), live = trained_whole(*what), run_live(split)
    assert len(alone.losses) == batches
    assert live.losses == alone.losses
    assert live.epochs[0]["test_accuracy"] == alone.epochs[0]["test_accuracy"]
    assert_equal(saved(split), saved(unsplit))
    assert_counted(live, run_in_process(job(nodes, tmp_path / "again", model, batches, batch_size)))
    assert len({node.pid for node in live.nodes} | {os.getpid()}) == nodes + 1
    assert all(node.cpu_s > 0 for node in live.nodes)


def test_microbatches_stages_and_links_change_nothing_of_that(tmp_path):
    slow = LinkProfile(rate_bps=200e6, delay_s=0.002)
    split = job(3, tmp_path / "live", microbatches=2, epochs=2)
    live = run_live(split, [Duplex(up=slow, down=slow), Duplex()], self_test="skip")
    model = run_in_process(job(3, tmp_path / "model", microbatches=2, epochs=2))
    assert live.losses == model.losses
    assert_counted(live, model)
    assert_equal(saved(split, 2), saved(job(3, tmp_path / "model"), 2))


def test_stretched_compute_and_a_link_that_follows_a_trace_take_their_time_at_least(tmp_path):
    (tmp_path / "link.csv").write_text("time_s,rate_bps\n0,40e6\n0.05,20e6\n0.1,20e6\n")
    link = Duplex(trace=str(tmp_path / "link.csv"), up=LinkProfile(delay_s=0.004), down=LinkProfile(delay_s=0.003))
    devices = (Device(timing=Timing(forward_s=0.03, backward_s=0.04)), Device(), Device(timing=Timing(forward_s=0.02)))
    split = job(3, tmp_path, devices=devices)
    live = run_live(split, [link, Duplex()], self_test="skip")
    assert live.losses == run_in_process(job(3, tmp_path / "model")).losses
    activations = live.nodes[0].sent_uplink["activation"]
    sent_s = 8 * activations.payload_bytes / activations.messages / 40e6  # at the trace's best
    assert len(live.latency_s) == 3
    assert max(live.latency_s) >= 0.03 + 0.02 + sent_s + 0.007
    assert min(live.step_s) >= 0.03 + 0.04 + 0.02 + sent_s + 0.007
    assert live.nodes[1].overrun_s < live.nodes[1].compute_s


def test_links_that_are_off_are_kept_in_the_outcome_or_refused_before_a_node_starts(tmp_path, monkeypatch):
    link = Duplex(up=LinkProfile(rate_bps=200e6))

    async def complain(ends, links, backend, mode):
        assert (ends, links, backend) == ([("ue", "mec"), ("mec", "cloud")], [link], "emulated")
        if mode == "refuse":
            raise RunError("the link ue to mec is off", weight=2)
        return ["the link ue to mec is off"]

    monkeypatch.setattr("bench.live.run.try_links", complain)
    assert run_live(job(3, tmp_path), [link], self_test="warn").uncalibrated == ["the link ue to mec is off"]
    monkeypatch.setattr("bench.live.run.launcher", None)
    with pytest.raises(RunError, match="is off"):
        run_live(job(3, tmp_path), [link])


def test_the_model_s_end_may_be_before_the_chain_s(tmp_path):
    unsplit = job(1, tmp_path / "unsplit")
    split = job(3, tmp_path / "live", splits=(4, layers_of(NETWORK)))
    live = run_live(split)
    assert live.losses == run_in_process(unsplit).losses
    assert [node.layers for node in live.nodes] == [4, layers_of(NETWORK) - 4, 0]


@pytest.fixture(scope="module")
def standing() -> Iterator[dict[str, tuple[str, int]]]:
    """Nodes started by hand; their addresses."""
    started = [start_by_hand(name) for name in NAMES[3]]
    try:
        yield {name: address_of(process) for name, process in zip(NAMES[3], started, strict=True)}
    finally:
        for process in started:
            process.kill()
            process.communicate()


TOKEN = "correct horse battery staple"
BY_HAND = (
    "import sys; from bench.cli.node import run_node; sys.exit(run_node(sys.argv[1], %r, once=%r, allow=['mines']))"
)


def start_by_hand(name: str, once: bool = False, host: str = "127.0.0.1") -> subprocess.Popen[str]:
    environment = os.environ | {TOKEN_VARIABLE: TOKEN, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    command = [sys.executable, "-c", BY_HAND % (host, once), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def address_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    line = process.stdout.readline()
    host, port = re.fullmatch(r"\w+ listens at ([\d.]+|\[[\da-f:]+\]):(\d+)\n", line).groups()
    return host.strip("[]"), int(port)


def test_nodes_started_by_hand_serve_one_run_after_the_other(standing, tmp_path):
    model = run_in_process(job(3, tmp_path / "model"))
    for folder in ("one", "two"):
        live = run_live(job(3, tmp_path / folder), addresses=standing, token=TOKEN)
        assert live.losses == model.losses
        assert_counted(live, model)


def test_nodes_started_by_hand_serve_on_after_a_run_that_failed(standing, tmp_path):
    with pytest.raises(RunError, match=r"(mec|cloud): ModelError"):
        run_live(job(3, tmp_path, stages=MINED), addresses=standing, token=TOKEN)
    live = run_live(job(3, tmp_path / "live"), addresses=standing, token=TOKEN)
    assert live.losses == run_in_process(job(3, tmp_path / "model")).losses


def test_a_node_s_threads_are_those_of_its_job(standing, tmp_path):
    said = []
    for threads in (OWN_THREADS + 1, None):
        asked = job(3, tmp_path, threads=threads, stages=(StageSpec(name="mines:Counting"),) * 2)
        with pytest.raises(RunError) as failed:
            run_live(asked, addresses=standing, token=TOKEN)
        said.append(str(failed.value))
    assert said[0].endswith(f": {OWN_THREADS + 1} threads")
    assert said[1].endswith(f": {OWN_THREADS} threads")


def test_a_node_listens_at_an_address_of_ipv6(tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")  # the loopback of some containers has none; nothing to listen at
    started = [start_by_hand(name, once=True, host="::1") for name in NAMES[2]]
    try:
        addresses = {name: address_of(process) for name, process in zip(NAMES[2], started, strict=True)}
        assert {host for host, _ in addresses.values()} == {"::1"}
        live, model = (
            run_live(job(2, tmp_path / "live"), addresses=addresses, token=TOKEN),
            run_in_process(job(2, tmp_path / "model")),
        )
        assert live.losses == model.losses
        assert_counted(live, model)
        assert [process.wait(60) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_nodes_wait_for_no_neighbour_of_a_run_that_is_over(standing, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nowhere = standing | {"ue": gone.getsockname()}
    with pytest.raises(RunError, match="lost ue: "):
        run_live(job(3, tmp_path / "none"), addresses=nowhere, token=TOKEN)
    assert run_live(job(3, tmp_path / "live"), addresses=standing, token=TOKEN).losses


def test_a_wrong_token_is_refused_and_not_told(standing, tmp_path):
    with pytest.raises(RunError, match="refused with status 401") as raised:
        run_live(job(3, tmp_path), addresses=standing, token="another one that is long")
    assert "another one" not in str(raised.value)


def test_a_node_started_for_one_run_ends_with_it(tmp_path):
    process = start_by_hand("all", once=True)
    run_live(job(1, tmp_path), addresses={"all": address_of(process)}, token=TOKEN)
    assert process.wait(60) == 0


@pytest.mark.parametrize("token", [None, "", "short", "long enough but\nof two lines"])
def test_a_node_by_hand_needs_a_token(token, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if token is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(InputError, match="BENCH_TOKEN: needs at least 16") as raised:
        run_node("mec")
    assert not token or token not in str(raised.value)


def test_a_taken_port_is_unusable_input(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: "):
            run_node("mec", port=port)


def test_the_launcher_has_no_thread_that_a_fork_would_lose():
    launcher = LauncherProcess()
    try:
        assert launcher.events() == [{"event": "ready"}]
        (server,) = [p for p in psutil.Process().children() if p.pid == launcher._process.pid]
        assert server.num_threads() == 1
    finally:
        launcher.end()


def test_the_token_is_in_no_argument_and_no_environment(tmp_path, monkeypatch):
    token = "made for this run alone"
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: token)
    shown: list[str] = []

    def say(metrics: dict[str, float]) -> None:
        for process in psutil.Process().children(recursive=True):
            shown.extend([*process.cmdline(), *process.environ().values()])

    run_live(job(3, tmp_path), say=say)
    assert any("nodes.process.launcher" in text for text in shown)
    assert not any(token in text for text in shown)


def test_nodes_listen_on_the_loopback_device_alone(tmp_path):
    heard: dict[str, set[str]] = {}

    def say(metrics: dict[str, float]) -> None:
        for process in psutil.Process().children(recursive=True):
            listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
            heard[process.name()] = {connection.laddr.ip for connection in listening}

    run_live(job(3, tmp_path), say=say)
    assert [heard[name] for name in NAMES[3]] == [{"127.0.0.1"}] * 3
