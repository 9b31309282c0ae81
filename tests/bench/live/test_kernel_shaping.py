"""Live runs whose links the kernel shapes: numbers, bytes by the kernel's own counters, and what is left of them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import psutil
import pytest
from jobs import small_job
from pyroute2 import IPRoute, netns
from pyroute2.netlink import nla_base

from bench.cli.main import main
from bench.execution import environment as conditions
from bench.live.inference import LiveService, ServiceSetup, run_service
from bench.live.kernel_shaping import Kernel
from bench.live.training import run_live
from bench.suite.document import InputError
from netem.kernel import namespace_network, namespace_owner
from netem.kernel.namespace import in_namespace
from netem.kernel.namespace_network import ShapeError
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.spec.job import DataSpec
from nodes.spec.policy import LinkSpec
from nodes.spec.service import Pace, Service
from nodes.training.in_process import run_in_process

FAST = Duplex(up=LinkProfile(rate_bps=200e6, delay_s=0.001), down=LinkProfile(rate_bps=400e6))
ENDLESS = 100_000


def backend() -> str:
    """What --shaping kernel is here, or why it is not."""
    try:
        return conditions.shaping("kernel")
    except InputError as error:
        return error.lines[0]


BACKEND = backend()
needs_kernel = pytest.mark.skipif(BACKEND not in ("kernel", "tbf+emulated"), reason=BACKEND)


def ours() -> set[str]:
    return {name for name in netns.listnetns() if name.startswith(f"splitmec-{os.getpid()}-")}


def shaper(path: str, interface: str) -> nla_base:
    """The root qdisc of ``interface``. Asked for in another thread, as pyroute2 runs a loop of its own."""

    def ask() -> nla_base:
        with in_namespace(path), IPRoute() as route:
            qdiscs = route.get_qdiscs(route.link_lookup(ifname=interface)[0])
            return next(qdisc for qdisc in qdiscs if qdisc["parent"] == 0xFFFFFFFF)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(ask).result()


def counted_bytes(path: str, interface: str) -> int:
    return shaper(path, interface).get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")["bytes"]


def rate(path: str, interface: str) -> int:
    """In bytes a second."""
    settings = shaper(path, interface).get_attr("TCA_OPTIONS")
    return settings.get_attr("TCA_NETEM_RATE" if BACKEND == "kernel" else "TCA_TBF_PARMS")["rate"]


def assert_at_home(paths: dict[str, str]) -> None:
    """Every process of ``paths`` is in its namespace."""
    for process in psutil.Process().children(recursive=True):
        if process.name() in paths:
            home = os.stat(f"/proc/{process.pid}/ns/net").st_ino
            assert home == os.stat(paths[process.name()]).st_ino


@needs_kernel
def test_a_chain_in_namespaces_trains_the_same_and_its_bytes_cross_the_shaped_links(tmp_path):
    seen: dict[str, int] = {}

    def say(metrics: dict[str, float]) -> None:
        paths = {name.rpartition("-")[2]: str(namespace_owner.FOLDER / name) for name in ours()}
        assert paths.keys() == {"ue", "mec", "cloud"}
        seen["up"], seen["down"] = counted_bytes(paths["ue"], "link0"), counted_bytes(paths["mec"], "link0")
        seen["sent"] = int(metrics["sent_bytes"])
        assert_at_home(paths)

    live = run_live(small_job(3, 6), [FAST, Duplex()], say, shaping=BACKEND, self_test="skip")
    assert live.losses == run_in_process(small_job(3, 6)).losses
    assert all(link.written_bytes == link.acked_bytes for node in live.nodes for link in node.connections)
    assert seen["up"] >= seen["sent"] > 0
    assert seen["down"] > 0
    assert ours() == set()


@needs_kernel
def test_a_run_that_fails_leaves_nothing(tmp_path):
    def fail(metrics: dict[str, float]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_live(small_job(3, 6), [FAST, FAST], fail, shaping=BACKEND, self_test="skip")
    assert ours() == set()


@needs_kernel
def test_a_service_lives_in_namespaces_and_so_does_a_node_that_joins_it():
    pairs = [("ue", "mec"), ("ue", "gnb"), ("gnb", "mec")]
    stage = ServiceSetup(
        service=Service(
            model="nodes.zoo.small_cnn:small_cnn",
            input_shape=(3, 32, 32),
            classes=10,
            pace=Pace(tasks=100, after_update=True),
            paced=False,
            data=DataSpec(test_samples=8),
            threads=1,
        ),
        layer_s={"ue": [1.0] * 11, "mec": [0.01] * 11, "gnb": [0.001] * 11},
        links={("ue", "mec"): FAST, ("ue", "gnb"): FAST, ("gnb", "mec"): Duplex()},
        known={pair: LinkSpec(rate_bps=200e6) for pair in pairs},
    )

    async def script(live: LiveService) -> None:
        await live.join("ue", "mec")
        await live.set_route("ue", "mec")
        await live.begin()
        await live.until_tasks(1)
        paths = {name.rpartition("-")[2]: str(namespace_owner.FOLDER / name) for name in ours()}
        assert paths.keys() == {"ue", "mec", "gnb"}
        first = counted_bytes(paths["ue"], "link0")
        assert first >= 4 * 3 * 32 * 32  # a picture crossed
        await live.join("gnb")
        await live.set_route("ue", "gnb", "mec")
        cuts, tasks = len(live.split_points), len(live.tasks)
        await live.until_updates(cuts + 1)
        await live.update("mec")
        await live.until_tasks(tasks + 1)
        assert list(live.tasks[-1].splits) == ["ue", "gnb"]
        assert counted_bytes(paths["ue"], "link1") >= 4 * 3 * 32 * 32
        assert_at_home(paths)

    run_service(stage, script, shaping=BACKEND, self_test="skip")
    assert ours() == set()


@needs_kernel
def test_a_link_changes_in_the_kernel_and_in_what_is_emulated_on_top():
    async def change() -> None:
        async with Kernel(("a", "b"), [FAST], 0, "netem" if BACKEND == "kernel" else "tbf", [(0, 1)]) as kernel:
            await kernel.connect_address(0, ("127.0.0.1", 1))
            await kernel.change(0, up=LinkProfile(rate_bps=16e6, delay_s=0.25))
            assert rate(kernel.namespaces["a"], "link0") == 2_000_000
            assert rate(kernel.namespaces["b"], "link0") == 50_000_000

    asyncio.run(change())


@needs_kernel
def test_a_link_that_began_without_a_delay_is_not_given_one_by_an_emulator_that_is_not_there():
    async def change() -> None:
        async with Kernel(("a", "b"), [Duplex(up=LinkProfile(rate_bps=1e6))], 0, "tbf", [(0, 1)]) as kernel:
            await kernel.connect_address(0, ("", 1))
            await kernel.change(0, up=LinkProfile(rate_bps=2e6))
            with pytest.raises(ValueError, match="from a: an unlimited link"):
                await kernel.change(0, up=LinkProfile(rate_bps=2e6, delay_s=1.0))

    asyncio.run(change())


# -- the runner is killed

RUNNER = """
import sys, msgspec
from bench.live.training import run_live
from nodes.spec.job import Job
from netem.profiles import Duplex
job, links = (msgspec.json.decode(text, type=kind) for text, kind in zip(sys.argv[2:], (Job, list[Duplex])))
say = lambda metrics: print("epoch", flush=True)
run_live(job, links, say, shaping=sys.argv[1], self_test="skip")
"""


@pytest.fixture
def decoy() -> Iterator[str]:
    """A namespace of somebody else's, with a pair of interfaces and a shaper in it."""
    name = f"decoy-{os.getpid()}"
    netns.create(name)
    with in_namespace(str(namespace_owner.FOLDER / name)), IPRoute() as route:
        route.link("add", ifname="theirs", kind="veth", peer={"ifname": "others"})
        index = route.link_lookup(ifname="theirs")[0]
        route.tc("add", "tbf", index, rate="1mbit", latency="50ms", burst=20_000)
    yield name
    netns.remove(name)


def machine(decoy: str) -> tuple:
    """Interfaces and shapers outside of namespaces, and in the decoy."""
    found = []
    for path in (None, str(namespace_owner.FOLDER / decoy)):
        with in_namespace(path), IPRoute() as route:
            found.append([link.get_attr("IFLA_IFNAME") for link in route.get_links()])
            found.append([(qdisc["index"], qdisc.get_attr("TCA_KIND")) for qdisc in route.get_qdiscs()])
    return tuple(found)


def namespaces_of(pid: int) -> list[str]:
    return [name for name in netns.listnetns() if name.startswith(f"splitmec-{pid}-")]


@needs_kernel
def test_after_a_kill_one_clean_leaves_nothing_of_ours_and_all_of_theirs(decoy, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("BENCH_DATA", raising=False)
    before = machine(decoy)
    described = (small_job(3, 6, epochs=ENDLESS), [FAST, FAST])
    arguments = [msgspec.json.encode(value).decode() for value in described]
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, BACKEND, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    family: list[psutil.Process] = []
    try:
        assert runner.stdout.readline() == "epoch\n"
        family = psutil.Process(runner.pid).children(recursive=True)
        assert len(namespaces_of(runner.pid)) == 3
        runner.kill()
        runner.wait()
        assert main(["doctor", "--clean", "--json"]) == 0
        swept = json.loads(capsys.readouterr().out)["swept"]
        assert len([name for name in swept if name.startswith(f"splitmec-{runner.pid}-")]) == 3
        assert namespaces_of(runner.pid) == []
        assert machine(decoy) == before
        assert decoy in netns.listnetns()
        assert psutil.wait_procs(family, timeout=60)[1] == []  # with the last of them the kernel ends the namespaces
    finally:
        runner.kill()
        runner.communicate()
        for process in family:
            if process.is_running():
                process.kill()


# -- where it cannot be


def test_without_root_it_is_unusable_input_before_anything_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    out = tmp_path / "out"
    assert main(["run", "pipeline", "--scale", "smoke", "--shaping", "kernel", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "--shaping: kernel: needs root; give emulated, or run as root\n"
    assert not out.exists()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["netem", "tbf"], "kernel"),
        (["tbf"], "tbf+emulated"),
        ([], "--shaping: kernel: this kernel has neither netem nor tbf; give emulated"),
        (ShapeError("no namespaces"), "--shaping: kernel: no namespaces; give emulated"),
    ],
)
def test_what_the_kernel_has_decides_what_is_recorded(found, said, monkeypatch):
    def supported_shapers() -> list[str]:
        if isinstance(found, ShapeError):
            raise found
        return found

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespace_network, "supported_shapers", supported_shapers)
    assert backend() == said


def test_nodes_started_by_hand_are_in_no_namespace(tmp_path):
    with pytest.raises(ValueError, match="no namespace that could be shaped"):
        run_live(small_job(3, 6), addresses={}, token="t" * 16, shaping="kernel")


@needs_kernel
def test_records_say_what_was_done(tmp_path):
    out = tmp_path / "out"
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        """
name: mine
dataset: digits
experiments:
  - name: chain
    run: pipeline.chain
    parameters: {model: "nodes.zoo.small_cnn:small_cnn", nodes: 2, link: wifi, batch_size: 8, train_samples: 16,
                 test_samples: 8}
"""
    )
    assert main(["run", str(suite), "--shaping", "kernel", "--allow-uncalibrated", "--out", str(out)]) == 0
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert {record["shaping"] for record in records} == {BACKEND}
