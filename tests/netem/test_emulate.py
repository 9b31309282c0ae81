"""The emulator process: every byte is forwarded, none too early; it ends with its parent.

Bounds on time are one-sided, since a busy machine may be late. Tests without a clock check the other side.
"""

import asyncio
import contextlib
import errno
import functools
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import pytest

import netem
from netem.calibrate import measure, open_probe, timestamp_server
from netem.emulate import Emulator, EmulatorError, execute
from netem.link import LinkProfile
from netem.profiles import Duplex, Traces
from netem.proxy import Carried
from netem.trace import TraceError

FAST_WAY = LinkProfile(rate_bps=400e6, delay_s=0.001)
FAST = Duplex(up=FAST_WAY, down=FAST_WAY)
TIMEOUT_S = 60.0


def with_timeout(test):
    """``test`` that fails instead of hanging."""

    @functools.wraps(test)
    async def run(*args, **kwargs):
        async with asyncio.timeout(TIMEOUT_S):
            await test(*args, **kwargs)

    return run


@pytest.fixture
async def emulator():
    async with Emulator() as emulator:
        yield emulator


@contextlib.asynccontextmanager
async def target(handle):
    """Server that calls ``handle(reader, writer)`` for each connection; yields its address."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


async def reverse(reader, writer):
    """Read to the end and reply with the bytes in reverse order."""
    writer.write((await reader.read())[::-1])
    writer.write_eof()


async def reversed_by(address, data: bytes) -> bytes:
    """Send ``data``, half close the connection and return the whole reply."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@with_timeout
async def test_bytes_of_several_connections_arrive_intact_and_are_counted(emulator):
    blocks = [random.Random(seed).randbytes(200_000 + seed) for seed in range(4)]
    async with target(reverse) as address:
        link = await emulator.add_link(address, FAST)
        answers = await asyncio.gather(*(reversed_by(link, block) for block in blocks))
    assert answers == [block[::-1] for block in blocks]
    assert await emulator.forwarded_bytes(link) == (800_006, 800_006)


def test_what_a_direction_carries_is_counted_while_something_is_on_the_way():
    carried = Carried()
    carried.add(100, 1.0, 3.0)
    carried.add(50, 2.5, 4.0)  # read while the first was on the way
    carried.add(10, 9.0, 9.5)  # after a pause
    assert (carried.n_bytes, carried.busy_s) == (160, 3.0 + 0.5)
    assert carried.byte_delay_s == 100 * 2.0 + 50 * 1.5 + 10 * 0.5


@with_timeout
async def test_an_address_may_be_chosen_and_is_free_again_at_once():
    port, writers = 0, []

    async def read(reader, writer):
        await reader.read()

    async with target(read) as address:
        for _ in range(2):
            async with Emulator() as emulator:
                link = await emulator.add_link(address, FAST, port=port)
                assert port in (0, link[1])
                port = link[1]
                _, writer = await asyncio.open_connection(*link)
                writers.append(writer)  # open, as the emulator ends
                writer.write(b"abc")
                while not (await emulator.forwarded_bytes(link))[0]:
                    pass
    for writer in writers:
        writer.close()


@with_timeout
async def test_connections_share_the_rate(emulator):
    rate_bps, size = 20e6, 250_000
    async with target(reverse) as address:
        link = await emulator.add_link(address, Duplex(up=LinkProfile(rate_bps=rate_bps)))
        begun_at = time.monotonic()
        await asyncio.gather(*(reversed_by(link, bytes(size)) for _ in range(2)))
    assert time.monotonic() - begun_at >= 0.95 * 2 * size * 8 / rate_bps


@with_timeout
async def test_a_link_is_never_faster_or_earlier_than_its_profile(emulator):
    up = LinkProfile(rate_bps=20e6, delay_s=0.003)
    async with timestamp_server() as address:
        link = await emulator.add_link(address, Duplex(up=up, down=LinkProfile(delay_s=0.004)))
        async with open_probe(socket.create_connection(link)) as probe:
            measured = await measure(probe, up, bulk_s=0.1, messages=20, sizes=(4096, 500_000), repeats=1)
    assert measured.delay_s >= 0.003
    assert measured.round_trip_s >= 0.007
    assert all(seconds >= 0.003 + 8 * size / 20e6 for size, seconds in measured.message_s.items())


@with_timeout
async def test_half_duplex_directions_share_the_rate(emulator):
    rate_bps, size = 20e6, 250_000
    profile = LinkProfile(rate_bps=rate_bps)
    half = Duplex(up=profile, down=profile, half_duplex=True)

    async def both_ways(reader, writer):
        writer.write(bytes(size))
        await reader.readexactly(size)
        writer.write_eof()

    async with target(both_ways) as address:
        link = await emulator.add_link(address, half)
        begun_at = time.monotonic()
        reader, writer = await asyncio.open_connection(*link)
        writer.write(bytes(size))
        assert len(await reader.read()) == size
        writer.close()
    assert time.monotonic() - begun_at >= 0.95 * 2 * size * 8 / rate_bps


@with_timeout
async def test_a_trace_is_followed_from_its_start_time(emulator, tmp_path):
    trace = tmp_path / "falling.csv"
    trace.write_text("time_s,rate_bps\n0,80e6\n0.02,8e6\n0.04,8e6\n")
    link = Duplex(trace=Traces(up=str(trace), down=str(trace)), repeat=False)
    async with target(reverse) as address:
        at = await emulator.add_link(address, link)
        begun_at = time.monotonic()
        await emulator.play(at, link, begun_at)
        await reversed_by(at, bytes(300_000))
    # At most 200,000 bytes are sent in the first 20 ms, 100,000 more take 0.1 s, and the reply takes 0.3 s.
    assert time.monotonic() - begun_at >= 0.95 * (0.02 + 0.1 + 0.3)


@with_timeout
async def test_packets_wait_for_the_milliseconds_of_a_trace(emulator, tmp_path):
    trace = tmp_path / "outage.mahi"
    trace.write_text("100\n100\n300\n300\n")
    async with target(reverse) as address:
        at = await emulator.add_link(address, link := Duplex(trace=str(trace)))
        begun_at = time.monotonic()
        await emulator.play(at, link, begun_at)
        await reversed_by(at, bytes(2000))  # there at 100 ms, back at 300 ms
    assert time.monotonic() - begun_at >= 0.2998


@with_timeout
async def test_a_missing_or_invalid_trace_is_an_error(emulator, tmp_path):
    with pytest.raises(TraceError, match="no trace 'nowhere'"):
        await emulator.play(("127.0.0.1", 1), Duplex(trace="nowhere"), 0.0)
    (tmp_path / "bad.csv").write_text("time_s,rate_bps\n0,fast\n")
    async with target(reverse) as address:
        at = await emulator.add_link(address, FAST)
        with pytest.raises(EmulatorError, match=r"bad.csv:2: rate_bps: 'fast' is not a number"):
            await emulator.play(at, Duplex(trace=str(tmp_path / "bad.csv")), 0.0)


@with_timeout
async def test_a_profile_changes_while_traffic_flows(emulator):
    async with target(reverse) as address:
        link = await emulator.add_link(address, Duplex(up=LinkProfile(rate_bps=1e6)))
        answer = asyncio.create_task(reversed_by(link, bytes(20_000_000)))  # 160 s, longer than the timeout
        while not (await emulator.forwarded_bytes(link))[0]:
            pass
        await emulator.change(link, up=LinkProfile())
        assert len(await answer) == 20_000_000


@with_timeout
async def test_nothing_is_lost_when_the_sender_closes_at_once(emulator):
    received = asyncio.get_running_loop().create_future()

    async def keep(reader, writer):
        received.set_result(len(await reader.read()))

    async with target(keep) as address:
        link = await emulator.add_link(address, Duplex(up=LinkProfile(rate_bps=20e6, delay_s=0.02)))
        with socket.create_connection(link) as sender:
            sender.sendall(bytes(100_000))
        assert await received == 100_000


@with_timeout
async def test_a_reset_reaches_the_other_side(emulator):
    ended = asyncio.get_running_loop().create_future()

    async def read(reader, writer):
        try:
            await reader.readexactly(4)
            ended.set_result(await reader.read())
        except OSError as error:
            ended.set_exception(error)

    async with target(read) as address:
        link = await emulator.add_link(address, FAST)
        sender = socket.create_connection(link)
        sender.sendall(b"data")
        while (await emulator.forwarded_bytes(link))[0] < 4:
            pass
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.close()
        with pytest.raises(ConnectionResetError):
            await ended


@with_timeout
async def test_an_unreachable_target_closes_the_connection_and_is_logged(capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = server.getsockname()[:2]
    async with Emulator() as emulator:
        link = await emulator.add_link(gone, FAST)
        with contextlib.suppress(ConnectionResetError):  # the reset may precede the return of connect
            reader, _ = await asyncio.open_connection(*link)
            assert await reader.read() == b""
    log = capfd.readouterr().err
    assert f"link 127.0.0.1:{link[1]}: target 127.0.0.1:{gone[1]} unreachable" in log


@with_timeout
async def test_a_reader_that_stops_blocks_only_its_own_sender(emulator):
    async def ignore(reader, writer):
        await asyncio.Event().wait()

    async with target(ignore) as unread, target(reverse) as address:
        # The link has no rate limit: only the program that does not read limits what its sender can write.
        link = await emulator.add_link(unread, Duplex(up=LinkProfile(delay_s=0.001)))
        _, writer = await asyncio.open_connection(*link)
        writer.write(bytes(200_000_000))
        other = await emulator.add_link(address, FAST)
        assert await reversed_by(other, b"abc") == b"cba"
        passed = -1
        while passed < (passed := (await emulator.forwarded_bytes(link))[0]):
            await reversed_by(other, bytes(500_000))
        assert passed < 150_000_000
        writer.transport.abort()


@with_timeout
async def test_errors_of_the_emulator_are_raised(emulator):
    with pytest.raises(EmulatorError, match="no link listens on"):
        await emulator.change(("127.0.0.1", 1), up=FAST_WAY)
    link = await emulator.add_link(("127.0.0.1", 1), FAST)
    with pytest.raises(EmulatorError, match="limit_packets: not supported on a byte stream"):
        await emulator.change(link, up=FAST_WAY, down=LinkProfile(limit_packets=5))
    with pytest.raises(EmulatorError, match=os.strerror(errno.EADDRNOTAVAIL)):
        await emulator.add_link(("127.0.0.1", 1), FAST, host="192.0.2.1")
    emulator._process.kill()
    with pytest.raises(EmulatorError, match="ended with status -9"):
        await emulator.forwarded_bytes(("127.0.0.1", 1))


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (b"{", "invalid command"),
        (b'{"type":"Explode"}', "invalid command"),
        (b'{"type":"Measure"}', "invalid command"),
        (b'{"type":"Measure","address":["::1",1]}', "no link listens on ('::1', 1)"),
        (b'{"type":"ChangeLink","address":["::1",1],"up":{"rate_bps":-1},"down":null}', "rate_bps must be above 0"),
        (
            b'{"type":"AddLink","target":["::1",1],"link":{"up":{"duplicate":0.1}},"listen":["::1",0],"seed":0,'
            b'"namespace":null}',
            "duplicate: not supported on a byte stream",
        ),
    ],
)
def test_an_invalid_command_is_rejected_with_its_error(command, error):
    assert error in execute(command, {}).error


def test_the_emulator_ends_when_its_parent_is_killed():
    script = """
import asyncio
from netem.emulate import Emulator
async def main():
    async with Emulator() as emulator:
        print(emulator._process.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""

    async def run() -> None:
        parent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE, cwd=Path(next(iter(netem.__path__))).parent
        )
        assert parent.stdout is not None
        emulator = os.pidfd_open(int(await parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        assert select.select([emulator], [], [], TIMEOUT_S)[0], "the emulator still runs"
        os.close(emulator)

    asyncio.run(run())
