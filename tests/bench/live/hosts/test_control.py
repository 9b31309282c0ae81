"""A node's machine at the service of a runner: its clock, its links, and one runner at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import psutil
import pytest

from bench.live.hosts.control import AbsentError, HostControl, RemoteEmulator
from bench.live.hosts.document import HostMeasurement, Hosts, NodeHost
from bench.live.hosts.nodes import HostNodes
from bench.live.hosts.shaping import HostShaping
from bench.live.inference import LiveService, ServiceSetup
from bench.live.processes import RunError
from bench.live.shaping import Shaping
from netem.calibrate import Calibration
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.process.host_control import HOST_PATH, ClockReading, Host, TimeConnection, TryLinks
from nodes.spec.credentials import RUNNER, Credentials
from nodes.spec.service import Pace, Service
from nodes.wire.messages import TaskReport
from nodes.wire.transport import Server

TOKEN = "correct horse battery staple"
BEARER = Credentials.of(TOKEN, "mec").token(RUNNER)
LINK = LinkProfile(rate_bps=50e6, delay_s=0.004)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server(BEARER)
    one.handlers[HOST_PATH] = Host().attend
    await one.start()
    yield one
    await one.close()


async def opened(server: Server, token: str = BEARER) -> HostControl:
    return await HostControl.open("mec", (server.host, server.port), token)


def hosts(server: Server, tmp_path) -> Hosts:
    nodes = {name: NodeHost(name, (server.host, server.port), None) for name in ("ue", "mec")}
    return Hosts(tmp_path / "hosts.yaml", nodes, wait_s=0.0, token=TOKEN)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (what it waits for says nothing)
        await asyncio.sleep(0)


def emulators() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "netem.emulate" in one.cmdline()]


async def test_a_clock_is_read_where_the_round_trip_is_least(server, monkeypatch):
    control = await opened(server)
    assert (await control.clock())[0] == pytest.approx(0, abs=0.05)  # the same clock
    now, trips = [100.0], iter([(0.3, 0.1), (0.02, 0.04), (0.5, 0.0)] * 4)  # there and back
    monkeypatch.setattr("bench.live.hosts.control.time", type("Clock", (), {"monotonic": lambda: now[0]}))

    async def reading(request: object, kind: type) -> ClockReading:
        there_s, back_s = next(trips)
        received_s = now[0] + there_s + 7
        now[0] += there_s + 0.2 + back_s
        return ClockReading(received_s, received_s + 0.2)

    monkeypatch.setattr(control, "ask", reading)
    offset_s, uncertainty_s = await control.clock()
    assert uncertainty_s == pytest.approx((0.02 + 0.04) / 2)
    assert offset_s == pytest.approx(7 + (0.02 - 0.04) / 2)
    await control.close()


async def test_links_are_emulated_measured_and_ended_with_the_connection(server):
    control = await opened(server)
    (found,) = await control.ask(TryLinks([LINK], 0.02, 8), list[Calibration])
    assert found.delay_s >= LINK.delay_s
    assert found.rate_bps > 0
    assert await control.ask(TimeConnection((server.host, server.port)), float) < 5
    remote = RemoteEmulator(control)
    near = await remote.add_link((server.host, server.port), Duplex(up=LINK))
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(*near)
    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.0 200")
    assert time.monotonic() - began >= LINK.delay_s
    writer.close()
    sent, returned = await remote.forwarded_bytes(near)
    assert sent == 24
    assert returned > 12
    await remote.play(near, Duplex(trace="5g-sub6"), time.monotonic())
    (one,) = emulators()
    await control.close()
    await asyncio.to_thread(one.wait, 10)


async def test_a_machine_reads_no_file_for_a_runner_and_says_what_is_wrong(server, tmp_path):
    control = await opened(server)
    remote = RemoteEmulator(control)
    near = await remote.add_link((server.host, server.port), Duplex(up=LINK))
    (tmp_path / "mine.csv").write_text("time_s,rate_bps\n0,1e6\n1,1e6\n")
    with pytest.raises(RunError, match=r"mec: .*mine\.csv: not a packaged trace"):
        await remote.play(near, Duplex(trace=str(tmp_path / "mine.csv")), 0.0)
    with pytest.raises(RunError, match="mec: no link listens"):
        await remote.change(("127.0.0.1", 1), LINK)
    await control.close()


async def test_a_second_runner_is_told_that_the_node_is_busy_and_a_stranger_is_refused(server, tmp_path):
    first = await opened(server)
    busy = HostNodes(hosts(server, tmp_path))
    with pytest.raises(RunError, match=r"^mec at .* is busy with another run; wait for its end$"):
        await busy.start(["mec"], TOKEN)
    await first.close()
    with pytest.raises(RunError, match="refused the runner: the token is another one"):
        await opened(server, "another one that is long")
    await (await opened(server)).close()  # free again
    await server.close()
    with pytest.raises(AbsentError, match="does not answer"):
        await opened(server)


async def test_a_runner_that_asks_for_nothing_any_more_holds_no_machine(server, monkeypatch):
    monkeypatch.setattr("nodes.process.host_control.SILENCE_S", 0.2)
    silent = await opened(server)
    while True:  # until it is given up
        try:
            control = await opened(server)
            break
        except RunError as busy:
            assert "is busy with another run" in str(busy)  # noqa: PT017 (each try but the last)
    assert (await control.clock())[1] < 1
    await control.close()
    await silent.close()


async def test_a_machine_that_is_lost_ends_no_run_by_itself(server, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.live.hosts.nodes.CLOCK_S", 0.0)
    nodes = HostNodes(machines := hosts(server, tmp_path))
    await nodes.start(["mec"], TOKEN)
    first = machines.measured.pop("mec")
    told: list[tuple[str, str]] = []

    async def ended(name: str, how: str) -> None:
        told.append((name, how))

    watching = asyncio.create_task(nodes.watch(ended))
    await until(lambda: "mec" in machines.measured)
    assert abs(machines.measured["mec"].clock_offset_s - first.clock_offset_s) < 0.1
    await nodes.controls["mec"].close()
    await until(lambda: not nodes.controls)
    assert not watching.done()
    assert not told
    watching.cancel()
    await nodes.end()


async def test_a_command_that_ends_at_once_is_told_with_its_last_words(tmp_path):
    told = 'read token; echo no such machine, "$@", $(env | grep -c "$token") >&2; exit 255'
    node = NodeHost("mec", ("127.0.0.1", 9), ("sh", "-c", told, "sh"))
    nodes = HostNodes(Hosts(tmp_path / "hosts.yaml", {"mec": node}, wait_s=30.0, token=None))
    with pytest.raises(RunError, match=r"mec: sh .* ended with code 255: no such machine, node mec --host .*, 0$"):
        await nodes.start(["mec"], TOKEN)
    with pytest.raises(RunError, match=r"hosts\.yaml: nodes: no cloud"):
        await nodes.start(["mec", "cloud"], TOKEN)
    await nodes.end()


async def test_links_that_are_off_on_a_machine_are_complained_of_and_the_network_is_timed(
    server, tmp_path, monkeypatch
):
    shaping = HostShaping(machines := hosts(server, tmp_path), ("ue", "mec"), [Duplex(up=LINK)], 0, [(0, 1)])
    shaping.hosts.controls = dict.fromkeys(("ue", "mec"), await opened(server))
    machines.measured["ue"] = HostMeasurement(0.0, 0.0)
    monkeypatch.setattr("bench.live.link_self_test.ATTEMPTS", 1)
    off = Calibration(40e6, 0.004, 0.004, 0.0, 0.008, 0.008, 0, 1.0, {})

    async def measured(name: str, profiles: list[LinkProfile]) -> list[Calibration]:
        assert (name, profiles) == ("ue", [LINK])
        from bench.live.link_calibration import Asked, row_of  # noqa: PLC0415

        return [row_of(Asked("", "", Duplex(up=LINK)), off, 24)]

    monkeypatch.setattr(shaping, "_measure", measured)
    (complaint,) = await shaping.test(["ue", "mec"], "warn")
    assert "link ue to mec is off: 50 Mbit/s requested, 40.00 measured" in complaint
    assert 0 < machines.measured["ue"].round_trip_s["mec"] < 5
    with pytest.raises(RunError, match="link ue to mec is off"):
        await shaping.test(["ue"], "refuse")
    await shaping.hosts.end()


def test_the_end_of_a_task_is_told_by_the_clock_of_the_ue():
    service = Service(model="x", input_shape=(1,), classes=1, pace=Pace(tasks=0))
    setup = ServiceSetup(service=service, layer_s={"ue": [1.0], "mec": [1.0]}, links={}, known={})
    live = LiveService(setup, Shaping(("ue", "mec"), [], 0, []))
    live._nodes = type("Ahead", (), {"offset_s": lambda self, name: {"ue": 100.0, "mec": 350.0}[name]})()
    times = {"step": 0, "predicted_s": 1.0, "began_s": 10.0, "ended_s": 260.5, "returned_s": 11.0}
    assert live._on_one_clock(TaskReport(**times, splits={"ue": 1, "mec": 3})).latency_s == 0.5
    assert live._on_one_clock(TaskReport(**times, splits={"ue": 3})).latency_s == 250.5
