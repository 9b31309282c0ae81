"""Runs in a guest whose kernel has netem: links between namespaces, shaped by netem.shape, measured by packets.

Prints one line of JSON. Counts of packets are UDP's, one datagram a packet; rates are TCP's payload.
"""

import asyncio
import ctypes
import json
import os
import socket
import struct
import subprocess
import threading
import time
from itertools import pairwise
from statistics import median, quantiles

from msgspec.structs import replace

from netem.calibrate import Calibration, answering, measure, probing
from netem.link import LinkProfile
from netem.namespace import connected, inside, listening
from netem.profiles import LINKS, Duplex
from netem.shape import Network

MODULES = ("drivers/net/veth", "net/sched/sch_netem", "net/sched/sch_tbf")
FINIT_MODULE = 313  # its number on x86-64
STAMP = struct.Struct("<Id")
JITTER_S, JITTERED = 0.002, 300
QUIET_S = 0.8  # nothing came for so long: nothing more will


def load_modules() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for name in MODULES:
        with open(f"/usr/lib/uml/modules/{os.uname().release}/kernel/{name}.ko", "rb") as file:
            if libc.syscall(FINIT_MODULE, file.fileno(), b"", 0):
                raise OSError(ctypes.get_errno(), f"cannot load {name}")


class Ends:
    """Two namespaces, and sockets from the one to the other."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def ask(self, up: LinkProfile, down: LinkProfile | None = None) -> None:
        self.network.shape(0, Duplex(up=up, down=down or LinkProfile()))

    def datagrams(self) -> tuple[socket.socket, socket.socket]:
        with inside(self.network.paths[1]):
            far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        far.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        far.bind((self.network.address(0, 1), 0))
        with inside(self.network.paths[0]):
            near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.connect(far.getsockname())
        return near, far

    def stream(self) -> tuple[socket.socket, socket.socket]:
        with inside(self.network.paths[1]):
            listening = socket.create_server((self.network.address(0, 1), 0))
        with inside(self.network.paths[0]):
            near = socket.socket()
        near.connect(listening.getsockname())
        far, _ = listening.accept()
        listening.close()
        return near, far

    def send(self, count: int, gap_s: float = 0.0, meanwhile=lambda number: None) -> list[tuple[int, float]]:
        """(number, delay) of the datagrams that arrive, in their order, of ``count`` sent ``gap_s`` apart."""
        near, far = self.datagrams()
        far.settimeout(QUIET_S)
        arrived: list[tuple[int, float]] = []

        def receive() -> None:
            try:
                while True:
                    number, sent_at = STAMP.unpack(far.recv(100))
                    arrived.append((number, time.monotonic() - sent_at))
            except TimeoutError:
                pass

        receiving = threading.Thread(target=receive)
        receiving.start()
        begun_at = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun_at + number * gap_s - time.monotonic()))
            meanwhile(number)
            near.send(STAMP.pack(number, time.monotonic()))
        receiving.join()
        near.close()
        far.close()
        return arrived

    def flow(self, seconds: float, meanwhile=lambda: None) -> list[tuple[float, int]]:
        """(time, bytes so far) of what arrives of a stream sent for ``seconds``; ``meanwhile`` at half the time."""
        near, far = self.stream()
        begun_at = time.monotonic()
        stamps = [(0.0, 0)]

        def receive() -> None:
            while data := far.recv(1 << 16):
                stamps.append((time.monotonic() - begun_at, stamps[-1][1] + len(data)))

        receiving = threading.Thread(target=receive)
        receiving.start()
        block, changed = bytes(16 << 10), False
        while (now := time.monotonic() - begun_at) < seconds:
            if now > seconds / 2 and not changed:
                changed = True
                meanwhile()
            near.send(block)
        near.shutdown(socket.SHUT_WR)
        receiving.join()
        near.close()
        far.close()
        return stamps


def overtakers(numbers: list[int]) -> int:
    """How many came before one that was sent before them."""
    count, least = 0, numbers[-1]
    for number in reversed(numbers):
        count += number > least
        least = min(least, number)
    return count


def rate_bps(stamps: list[tuple[float, int]], from_s: float, to_s: float) -> float:
    within = [stamp for stamp in stamps if from_s <= stamp[0] <= to_s]
    return 8 * (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])


def packets(ends: Ends) -> dict:
    found: dict = {"kernel": os.uname().release}
    found["plain_delay_s"] = median(delay for _, delay in ends.send(100, 0.005))

    found["rates"] = []
    for asked_bps in (5e6, 50e6):
        ends.ask(LinkProfile(rate_bps=asked_bps, delay_s=0.005), LinkProfile(delay_s=0.005))
        found["rates"].append((asked_bps, rate_bps(ends.flow(1.5), 0.5, 1.5)))

    found["delays"] = []
    for asked_s in (0.001, 0.01, 0.04):
        ends.ask(LinkProfile(rate_bps=20e6, delay_s=asked_s))
        delays = [delay for _, delay in ends.send(100, 0.005)]
        found["delays"].append((asked_s, median(delays), quantiles(delays, n=100)[-1]))

    found["jitters"] = []
    for distribution, correlation in (("normal", 0.0), ("uniform", 0.0), ("pareto", 0.0), ("normal", 0.9)):
        jitter = LinkProfile(
            rate_bps=20e6,
            delay_s=0.012,
            jitter_s=JITTER_S,
            jitter_distribution=distribution,
            jitter_correlation=correlation,
        )
        ends.ask(jitter)
        delays = [delay for _, delay in ends.send(JITTERED, 0.008)]
        low_s, median_s, high_s = quantiles(delays, n=4)  # which some that came late change little
        mean_s = sum(delays) / len(delays)
        lag = sum((a - mean_s) * (b - mean_s) for a, b in pairwise(delays)) / sum((a - mean_s) ** 2 for a in delays)
        found["jitters"].append((distribution, correlation, median_s - 0.012, high_s - low_s, lag))

    for name, profile in {
        "loss": LinkProfile(delay_s=0.001, loss=0.05),
        "loss_correlated": LinkProfile(delay_s=0.001, loss=0.1, loss_correlation=0.5),
        "duplicate": LinkProfile(delay_s=0.001, duplicate=0.1),
        "reorder": LinkProfile(delay_s=0.02, reorder=0.25),
    }.items():
        ends.ask(profile)
        sent = 4000
        arrived = ends.send(sent)
        numbers = [number for number, _ in arrived]
        lost = sorted(set(range(sent)) - set(numbers))
        found[name] = {
            "sent": sent,
            "arrived": len(numbers),
            "lost": len(lost),
            "lost_after_lost": sum(b == a + 1 for a, b in pairwise(lost)),
            "overtook": overtakers(numbers),
        }

    ends.ask(LinkProfile(delay_s=0.5, limit_packets=50))
    found["limit"] = {"sent": 200, "arrived": len(ends.send(200))}

    change_s = []

    def change(number: int) -> None:
        if number % 100 == 50:
            profile = LinkProfile(rate_bps=1e6 * (number + 10), delay_s=0.002 + number * 1e-6)
            begun_at = time.perf_counter()
            ends.network.shape_end(0, 0, profile)
            change_s.append(time.perf_counter() - begun_at)

    ends.ask(LinkProfile(rate_bps=20e6, delay_s=0.002))
    numbers = [number for number, _ in ends.send(1000, 0.001, change)]
    found["changed"] = {"sent": 1000, "arrived": len(numbers), "in_order": numbers == sorted(numbers)}
    found["change_s"] = median(change_s)

    ends.ask(LinkProfile(rate_bps=20e6, delay_s=0.005), LinkProfile(delay_s=0.005))
    stamps = ends.flow(3.0, lambda: ends.ask(LinkProfile(rate_bps=5e6, delay_s=0.005), LinkProfile(delay_s=0.005)))
    found["flow"] = {"before_bps": rate_bps(stamps, 0.5, 1.4), "after_bps": rate_bps(stamps, 2.0, 3.0)}
    found["flow"]["longest_gap_s"] = max(b[0] - a[0] for a, b in pairwise(stamps) if 0.5 < a[0] < 2.9)
    return found


def held(network: Network) -> list[dict]:
    """The named links' ways, measured just as ``bench links`` measures every other backend's.

    Rate and delay of the link itself are those without jitter and loss: TCP, whose losses here are real, need not
    reach the rate of a link that has them. ``tcp_rate_bps`` is what it reached.
    """

    async def measured(rate_bps: float | None, delay_s: float) -> Calibration:
        far = listening(network.paths[1])
        near = connected((network.address(0, 1), far.getsockname()[1]), network.paths[0])
        async with answering(far), probing(near) as probe:
            return await measure(probe, LinkProfile(rate_bps, delay_s), bulk_s=1.0, messages=60, sizes=())

    rows = []
    for name, link in LINKS.items():
        for direction, duplex in {"up": link, "down": Duplex(up=link.down, down=link.up)}.items():
            if link == Duplex():
                continue
            asked = duplex.up
            plain = Duplex(up=steady(duplex.up), down=steady(duplex.down))
            network.shape(0, plain)
            seen = asyncio.run(measured(asked.rate_bps, asked.delay_s))
            network.shape(0, duplex)
            whole = asyncio.run(measured(asked.rate_bps, asked.delay_s))
            rows.append(
                {
                    "link": name,
                    "direction": direction,
                    "rate_bps": asked.rate_bps,
                    "measured_rate_bps": seen.rate_bps,
                    "tcp_rate_bps": whole.rate_bps,
                    "delay_s": asked.delay_s,
                    "measured_delay_s": seen.delay_s,
                    "measured_delay_p99_s": seen.delay_p99_s,
                    "measured_round_trip_s": seen.round_trip_s,
                    "jitter_s": asked.jitter_s,
                    "measured_jitter_s": whole.jitter_s,
                    "loss": asked.loss,
                }
            )
    return rows


def steady(profile: LinkProfile) -> LinkProfile:
    return replace(profile, jitter_s=0.0, loss=0.0)


def shown(ends: Ends) -> list[str]:
    """What tc shows of some profiles, a line each."""
    lines = []
    for profile in (
        LinkProfile(rate_bps=20e6, delay_s=0.01, jitter_s=0.002, loss=0.25, duplicate=0.5, reorder=0.125,
                    jitter_correlation=0.75),
        LinkProfile(rate_bps=8e6, delay_s=0.0025, loss=0.1, loss_correlation=0.5, limit_packets=77),
        LinkProfile(),
    ):  # fmt: skip
        ends.ask(profile)
        name = os.path.basename(ends.network.paths[0])
        command = ["tc", "-n", name, "-d", "qdisc", "show", "dev", "link0"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines.append(" ".join(shown.split()))
    return lines


def main() -> None:
    load_modules()
    with Network("netem", ["near", "far"], [(0, 1)]) as network:
        ends = Ends(network)
        found = packets(ends)
        found["held"] = held(network)
        try:
            found["shown"] = shown(ends)
        except FileNotFoundError:
            found["shown"] = None
    found["left"] = os.listdir("/run/netns")
    print("RESULT", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
