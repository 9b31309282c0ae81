"""``bench link``: programs over shaped proxies. Bounds on time are one-sided, since a busy machine may be late."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cli.link import Asked, Mapping, above_0, at_least_0, fastest_bps, mapping, pair
from bench.suite.document import InputError
from netem.link import LinkProfile
from netem.profiles import LINKS, Traces
from netem.trace import read

Command = Callable[..., int]
Told = Callable[..., tuple[int, str]]
Captured = pytest.CaptureFixture[str]

CLIENT = """
import socket, sys, threading
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
data = bytes(range(250)) * 400
def send():
    link.sendall(data)
    link.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
back = b""
while part := link.recv(1 << 16):
    back += part
print(len(back))
sys.exit(7 if back == data else 1)
"""


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets, to one connection after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    while data := connection.recv(1 << 16):
                        connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_program_reaches_its_server_over_the_link(echo: int, command: Command, capfd: Any) -> None:
    port, began = free_port(), time.monotonic()
    program = ("--", sys.executable, "-c", CLIENT, str(port))
    options = ("--rate", "8e6,16e6", "--delay", "5", "--json")
    assert command("link", f"{port}=localhost:{echo}", *options, *program) == 7
    assert time.monotonic() - began >= 0.95 * (8 * 100_000 / 8e6 + 0.010)
    printed = capfd.readouterr()
    assert "100000" in printed.err.splitlines(), "the program's output, away from the JSON"
    found = json.loads(printed.out)
    (link,) = found["links"]
    assert found["exit_code"] == 7
    assert (link["listen"], link["target"]) == (f"127.0.0.1:{port}", f"127.0.0.1:{echo}")
    for way, rate_bps in (("uplink", 8e6), ("downlink", 16e6)):
        assert (link[way]["bytes"], link[way]["asked_rate_bps"]) == (100_000, rate_bps)
        assert link[way]["rate_bps"] <= rate_bps
        assert link[way]["mean_delay_s"] >= link[way]["asked_delay_s"] == 0.005


def test_a_proxy_lasts_until_ctrl_c(echo: int, command: Command, capfd: Any) -> None:
    ports = free_port(), free_port()

    def use() -> None:
        for port in ports:
            for _ in range(200):  # until it listens
                try:
                    with socket.create_connection(("127.0.0.1", port)) as link:
                        link.sendall(b"hello")
                        assert link.recv(5, socket.MSG_WAITALL) == b"hello"
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=use).start()
    assert command("link", *(f"{port}=127.0.0.1:{echo}" for port in ports)) == 130
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"127.0.0.1:{ports[0]} leads to 127.0.0.1:{echo}"
    assert [line.split()[:2] for line in lines if "link " in line] == [["uplink", "5"], ["downlink", "5"]] * 2


def test_a_rate_above_the_highest_that_was_held_is_warned_of(told: Told) -> None:
    code, error = told("link", "0=localhost:9", "--rate", "1e9", "--", "true")
    assert code == 0
    assert error.startswith("warning: 1000 Mbit/s is above 600 Mbit/s")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "ADDRESS=TARGET"),
        ("9000", "'9000' is not ADDRESS=TARGET"),
        ("9000=localhost", "'9000=localhost' is not"),
        ("9000=localhost:0", "'9000=localhost:0' is not"),
        ("70000=localhost:80", "'70000=localhost:80' is not"),
        ("9000=no.such.invalid:80", "9000=no.such.invalid:80: no.such.invalid: "),
        ("0=localhost:9 --trace nosuch", "no trace 'nosuch'"),
        ("0=localhost:9 --trace wifi,nosuch", "no trace 'nosuch'"),
        ("0=localhost:9 --trace packets.mahi --rate 1e6", "packets.mahi: the packets"),
        ("0=localhost:9 --", "--: no command follows"),
        ("0=localhost:9 -- no/such/program", "command no/such/program: "),
        ("192.0.2.1:0=localhost:9 -- true", "192.0.2.1:0: cannot listen: "),
    ],
)
def test_what_cannot_be_shaped_is_one_line(
    words: str, problem: str, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("packets.mahi").write_text("1\n2\n")
    code, error = told("link", *words.split())
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(problem)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("9000=127.0.0.1:80", (("127.0.0.1", 9000), ("127.0.0.1", 80))),
        ("0.0.0.0:0=192.0.2.7:443", (("0.0.0.0", 0), ("192.0.2.7", 443))),
        ("[::1]:9000=[::1]:80", (("::1", 9000), ("::1", 80))),
    ],
)
def test_a_mapping_names_both_ends(text: str, ends: tuple[Any, Any]) -> None:
    assert mapping(text) == Mapping(*ends)


def test_a_value_is_for_both_directions_or_there_are_two() -> None:
    assert pair(above_0, "")("5e6") == (5e6, 5e6)
    assert pair(at_least_0, "")("0,20") == (0.0, 20.0)
    for text in ("", "1,", "1,2,3", "nan", "inf", "-1", "fast"):
        with pytest.raises(Exception, match="is not a number"):
            pair(at_least_0, "a number")(text)
    with pytest.raises(Exception, match="is not a number"):
        pair(above_0, "a number")("0")


def test_what_is_given_takes_the_place_of_the_named_links_values(tmp_path: Path) -> None:
    assert Asked().link(tmp_path).up == LinkProfile()
    link = Asked("5g", delay_ms=(1.0, 2.0)).link(tmp_path)
    assert (link.up.rate_bps, link.down.rate_bps) == (LINKS["5g"].up.rate_bps, LINKS["5g"].down.rate_bps)
    assert (link.up.delay_s, link.down.delay_s, link.up.jitter_s) == (0.001, 0.002, LINKS["5g"].up.jitter_s)
    assert fastest_bps(link) == LINKS["5g"].down.rate_bps


def test_a_trace_is_followed_up_to_the_rate_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("time_s,rate_bps,delay_s\n0,5e6,0.1\n1,20e6,0.2\n2,9e6,0.3\n")
    link = Asked(rate_bps=(10e6, 7e6), trace=(str(path), str(path))).link(tmp_path)
    assert isinstance(link.trace, Traces)
    up, down = read(Path(link.trace.up)), read(Path(link.trace.down))
    assert [change.rate_bps for change in up.changes] == [5e6, 10e6, 9e6]
    assert [change.rate_bps for change in down.changes] == [5e6, 7e6, 7e6]
    assert [change.delay_s for change in up.changes] == [0.1, 0.2, 0.3]
    assert fastest_bps(link) == 10e6
    with pytest.raises(InputError):
        Asked(trace=(str(tmp_path / "no.csv"), str(path))).link(tmp_path)
