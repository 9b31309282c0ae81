"""Measure links between namespaces packet by packet, in a guest whose kernel has netem.

Prints one line of JSON. Packets are counted as UDP datagrams; rates are TCP payload rates.

Other load makes a link slower or later, never faster or earlier. Measurements that are too slow or too late are
therefore repeated, and all attempts are printed: the last must match the profile, and none may be too fast.
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
from collections.abc import Callable
from itertools import pairwise
from statistics import median, quantiles
from typing import TypeVar

from msgspec.structs import replace

from netem.calibrate import Calibration, measure, open_probe, timestamp_server
from netem.kernel.namespace import connect_from, in_namespace, listen_in
from netem.kernel.namespace_network import NamespaceNetwork
from netem.link import LinkProfile
from netem.profiles import LINKS, Duplex

MODULES = ("drivers/net/veth", "net/sched/sch_netem", "net/sched/sch_tbf")
FINIT_MODULE = 313  # system call number on x86-64
STAMP = struct.Struct("<Id")
JITTER_S, JITTERED = 0.002, 300
QUIET_S, QUIETS = 0.2, 4  # receive timeouts in a row that end a measurement; one may be due to the guest sleeping
MESSAGE_S = 0.1  # transmission time of the messages that check a rate
ATTEMPTS = 3
LATEST_S = 120.0  # after the guest's start; later measurements get one attempt

RATE_OFF = 0.05
TIMER_S = 0.001  # tolerated lateness of the guest's timers; about 0.2 ms was measured
# (median, interquartile range) in units of jitter_s; the pareto's by hand: 4/3 ((1 - u)^(-1/3) - 1.5).
QUARTILES = {"normal": (0.0, 1.349), "uniform": (0.0, 1.0), "pareto": (-0.3201, 0.6491)}
# Of 300 normal draws the median has a standard error of 0.072, the interquartile range one of 0.09.
MEDIAN_OFF, DISTANCE_OFF = 0.36, 0.45
SPREAD_OFF = 0.75  # with 60 normal draws the interquartile range has a relative standard error of 0.15

Found = TypeVar("Found")


def attempts(measure: Callable[[], Found], good: Callable[[Found], bool]) -> list[Found]:
    """Results of repeated measurements, up to the first that is ``good``; the guest's clock is that of the host."""
    found = [measure()]
    while len(found) < ATTEMPTS and not good(found[-1]) and time.monotonic() < LATEST_S:
        found.append(measure())
    return found


def reached(configured_bps: float, measured_bps: float) -> bool:
    return abs(measured_bps / configured_bps - 1) <= RATE_OFF


def in_time(configured_s: float, measured_s: float) -> bool:
    return configured_s <= measured_s <= configured_s + TIMER_S


def as_drawn(distribution: str, median_s: float, distance_s: float) -> bool:
    """Whether the jitter of delays has the quartiles of ``distribution``."""
    of_median, of_distance = QUARTILES[distribution]
    late = median_s / JITTER_S - of_median
    return -MEDIAN_OFF <= late <= MEDIAN_OFF + TIMER_S / JITTER_S and (
        abs(distance_s / JITTER_S - of_distance) <= DISTANCE_OFF
    )


def load_modules() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for name in MODULES:
        with open(f"/usr/lib/uml/modules/{os.uname().release}/kernel/{name}.ko", "rb") as file:
            if libc.syscall(FINIT_MODULE, file.fileno(), b"", 0):
                raise OSError(ctypes.get_errno(), f"cannot load {name}")


class Ends:
    """Two namespaces, with sockets from one to the other."""

    def __init__(self, network: NamespaceNetwork) -> None:
        self.network = network

    def shape(self, up: LinkProfile, down: LinkProfile | None = None) -> None:
        self.network.shape(0, Duplex(up=up, down=down or LinkProfile()))

    def datagrams(self) -> tuple[socket.socket, socket.socket]:
        with in_namespace(self.network.paths[1]):
            far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        far.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        far.bind((self.network.address(0, 1), 0))
        with in_namespace(self.network.paths[0]):
            near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.connect(far.getsockname())
        return near, far

    def stream(self) -> tuple[socket.socket, socket.socket]:
        with in_namespace(self.network.paths[1]):
            listener = socket.create_server((self.network.address(0, 1), 0))
        with in_namespace(self.network.paths[0]):
            near = socket.socket()
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        listener.close()
        return near, far

    def send(
        self, count: int, gap_s: float = 0.0, meanwhile=lambda number: None, whole: bool = False
    ) -> list[tuple[int, float]]:
        """Send ``count`` datagrams ``gap_s`` apart; return (number, delay) of those that arrive, in order of arrival.

        With ``whole`` the measurement ends after ``count`` arrivals.
        """
        near, far = self.datagrams()
        far.settimeout(QUIET_S)
        arrived: list[tuple[int, float]] = []
        all_sent = threading.Event()

        def receive() -> None:
            quiets = 0
            while quiets < QUIETS and not (whole and len(arrived) == count):
                try:
                    number, sent_at = STAMP.unpack(far.recv(100))
                    arrived.append((number, time.monotonic() - sent_at))
                    quiets = 0
                except TimeoutError:
                    quiets += all_sent.is_set()

        receiving = threading.Thread(target=receive)
        receiving.start()
        begun_at = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun_at + number * gap_s - time.monotonic()))
            meanwhile(number)
            near.send(STAMP.pack(number, time.monotonic()))
        all_sent.set()
        receiving.join()
        near.close()
        far.close()
        return arrived

    def flow(self, seconds: float, meanwhile=lambda: None) -> list[tuple[float, int]]:
        """(time, bytes so far) of the arrivals of a stream sent for ``seconds``; ``meanwhile`` runs at half time."""
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
    """Number of datagrams that arrived before one sent earlier."""
    count, least = 0, numbers[-1]
    for number in reversed(numbers):
        count += number > least
        least = min(least, number)
    return count


def rate_bps(stamps: list[tuple[float, int]], from_s: float, to_s: float) -> float:
    within = [stamp for stamp in stamps if from_s <= stamp[0] <= to_s]
    if len(within) < 2:
        return 0.0  # the guest slept
    return 8 * (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])


def packets(ends: Ends) -> dict:
    found: dict = {"kernel": os.uname().release}

    def rates(configured_bps: float) -> dict:
        ends.shape(LinkProfile(rate_bps=configured_bps, delay_s=0.005), LinkProfile(delay_s=0.005))
        stamps = ends.flow(1.5)
        whole_bps = (
            8 * stamps[-1][1] / (stamps[-1][0] - 0.005)
        )  # from the first byte's sending: lateness cannot raise it
        return {"configured_bps": configured_bps, "measured_bps": rate_bps(stamps, 0.5, 1.5), "whole_bps": whole_bps}

    found["rates"] = [
        attempts(
            lambda configured_bps=configured_bps: rates(configured_bps),
            lambda row: reached(row["configured_bps"], row["measured_bps"]),
        )
        for configured_bps in (5e6, 50e6)
    ]

    def delays(configured_s: float) -> dict:
        ends.shape(LinkProfile(rate_bps=20e6, delay_s=configured_s))
        seen = [delay for _, delay in ends.send(100, 0.005, whole=True)]
        return {"configured_s": configured_s, "least_s": min(seen), "median_s": median(seen)}

    found["delays"] = [
        attempts(
            lambda configured_s=configured_s: delays(configured_s),
            lambda row: in_time(row["configured_s"], row["median_s"]),
        )
        for configured_s in (0.001, 0.01, 0.04)
    ]

    def jitters(distribution: str, correlation: float) -> dict:
        jitter = LinkProfile(
            rate_bps=20e6,
            delay_s=0.012,
            jitter_s=JITTER_S,
            jitter_distribution=distribution,
            jitter_correlation=correlation,
        )
        ends.shape(jitter)
        low_s, median_s, high_s = quantiles([delay for _, delay in ends.send(JITTERED, 0.008, whole=True)], n=4)
        return {"distribution": distribution, "median_s": median_s - jitter.delay_s, "distance_s": high_s - low_s}

    found["jitters"] = [
        attempts(lambda drawn=drawn: jitters(*drawn), lambda row: as_drawn(**row))
        for drawn in (("normal", 0.0), ("uniform", 0.0), ("pareto", 0.0), ("normal", 0.9))
    ]

    for name, profile in {
        "loss": LinkProfile(delay_s=0.001, loss=0.05),
        "loss_correlated": LinkProfile(delay_s=0.001, loss=0.1, loss_correlation=0.5),
        "duplicate": LinkProfile(delay_s=0.001, duplicate=0.1),
        "reorder": LinkProfile(delay_s=0.02, reorder=0.25),
    }.items():
        ends.shape(profile)
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

    ends.shape(LinkProfile(delay_s=0.5, limit_packets=50))
    found["limit"] = attempts(lambda: len(ends.send(200)), lambda arrived: arrived == 50)

    def change(number: int) -> None:
        if number % 100 == 50:
            profile = LinkProfile(rate_bps=1e6 * (number + 10), delay_s=0.002 + number * 1e-6)
            ends.network.shape_end(0, 0, profile)

    ends.shape(LinkProfile(rate_bps=20e6, delay_s=0.002))
    numbers = [number for number, _ in ends.send(1000, 0.001, change)]
    found["changed"] = {"sent": 1000, "arrived": len(numbers), "in_order": numbers == sorted(numbers)}

    def flow() -> dict:
        slow = LinkProfile(rate_bps=5e6, delay_s=0.005)
        ends.shape(replace(slow, rate_bps=20e6), LinkProfile(delay_s=0.005))
        begun_at, changed_s = time.monotonic(), []

        def change() -> None:
            ends.shape(slow, LinkProfile(delay_s=0.005))
            changed_s.append(time.monotonic() - begun_at)

        stamps = ends.flow(3.0, change)
        return {
            "before_bps": rate_bps(stamps, 0.5, 1.4),
            "after_bps": rate_bps(stamps, 2.0, 3.0),
            "bits": 8 * stamps[-1][1],
            "most_bits": 20e6 * changed_s[0] + 5e6 * (time.monotonic() - begun_at - changed_s[0]),
        }

    found["flow"] = attempts(flow, lambda row: reached(20e6, row["before_bps"]) and reached(5e6, row["after_bps"]))
    return found


def held(network: NamespaceNetwork) -> list[dict]:
    """Both directions of the named links, measured as by ``bench links`` on the other backends.

    Rate and delay are measured without jitter and loss: with real losses TCP need not reach the link's rate.
    ``tcp_rate_bps`` is what it reached.
    """

    async def measured(profile: LinkProfile, size: int) -> Calibration:
        far = listen_in(network.paths[1])
        near = connect_from((network.address(0, 1), far.getsockname()[1]), network.paths[0])
        async with timestamp_server(far), open_probe(near) as probe:
            bare = LinkProfile(profile.rate_bps, profile.delay_s)
            return await measure(probe, bare, bulk_s=0.5, messages=60, sizes=(size,), repeats=1)

    def row(name: str, direction: str, duplex: Duplex) -> dict:
        profile = duplex.up
        size = round(profile.rate_bps * MESSAGE_S / 8)

        def plain() -> Calibration:
            network.shape(0, Duplex(up=steady(duplex.up), down=steady(duplex.down)))
            return asyncio.run(measured(profile, size))

        def whole() -> Calibration:
            network.shape(0, duplex)
            return asyncio.run(measured(profile, size))

        def unshaped() -> float:
            network.shape(0, Duplex(up=LinkProfile(delay_s=profile.delay_s), down=LinkProfile(delay_s=profile.delay_s)))
            return asyncio.run(measured(profile, size)).rate_bps

        plains = attempts(
            plain, lambda seen: reached(profile.rate_bps, seen.rate_bps) and in_time(profile.delay_s, seen.delay_s)
        )
        carried = profile.rate_bps if reached(profile.rate_bps, plains[-1].rate_bps) else unshaped()
        wholes = attempts(whole, lambda seen: abs(seen.jitter_s / profile.jitter_s - 1) <= SPREAD_OFF)
        plain_names, least_s = ("rate_bps", "delay_s", "delay_p99_s", "round_trip_s"), min(s.delay_s for s in plains)
        return {
            **{"link": name, "direction": direction, "message_bytes": size, "least_delay_s": least_s},
            **{name: getattr(profile, name) for name in ("rate_bps", "delay_s", "jitter_s", "loss")},
            **{f"measured_{name}": getattr(plains[-1], name) for name in plain_names},
            **{"measured_jitter_s": wholes[-1].jitter_s, "tcp_rate_bps": wholes[-1].rate_bps},
            "carried_bps": carried,  # without a rate limit, if the rate was not reached
            "least_message_s": min(seen.message_s[size] for seen in plains),
        }

    return [
        row(name, direction, duplex)
        for name, link in LINKS.items()
        if link != Duplex()
        for direction, duplex in {"up": link, "down": Duplex(up=link.down, down=link.up)}.items()
    ]


def steady(profile: LinkProfile) -> LinkProfile:
    return replace(profile, jitter_s=0.0, loss=0.0)


def shown(ends: Ends) -> list[str]:
    """Output of tc for some profiles, one line each."""
    lines = []
    for profile in (
        LinkProfile(rate_bps=20e6, delay_s=0.01, jitter_s=0.002, loss=0.25, duplicate=0.5, reorder=0.125,
                    jitter_correlation=0.75),
        LinkProfile(rate_bps=8e6, delay_s=0.0025, loss=0.1, loss_correlation=0.5, limit_packets=77),
        LinkProfile(),
    ):  # fmt: skip
        ends.shape(profile)
        name = os.path.basename(ends.network.paths[0])
        command = ["tc", "-n", name, "-d", "qdisc", "show", "dev", "link0"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines.append(" ".join(shown.split()))
    return lines


def main() -> None:
    load_modules()
    with NamespaceNetwork("netem", ["near", "far"], [(0, 1)]) as network:
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
