"""Shaping of veth pairs, also under traffic, and its removal, by the kernel's own counters."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from pyroute2 import IPRoute, netns

from netem.kernel import namespace_owner
from netem.kernel.namespace import enter, in_namespace
from netem.kernel.namespace_network import NamespaceNetwork, ShapeError, supported_shapers
from netem.link import LinkProfile
from netem.profiles import Duplex


def skip_reason() -> str | None:
    """Reason why this machine cannot run these tests."""
    if os.geteuid():
        return "namespaces need root"
    try:
        return None if "tbf" in supported_shapers() else "this kernel has no tbf"
    except ShapeError as error:
        return str(error)


REASON = skip_reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

CHAIN = (["ue", "mec", "cloud"], [(0, 1), (1, 2)])


@pytest.fixture
def network():
    with NamespaceNetwork("tbf", *CHAIN) as network:
        yield network


def joined(network: NamespaceNetwork, edge: int, near: int, far: int, end: int = 1) -> list[socket.socket]:
    """Connection from node ``near`` to node ``far``, which is end ``end`` of ``edge``."""
    with in_namespace(network.paths[far]), socket.create_server((network.address(edge, end), 0)) as listener:
        with in_namespace(network.paths[near]):
            one = socket.socket()
        one.connect(listener.getsockname())
        other, _ = listener.accept()
    return [one, other]


def flow(one: socket.socket, other: socket.socket, n_bytes: int, meanwhile=lambda: None) -> int:
    """Send ``n_bytes`` and return the number received; call ``meanwhile`` after a hundredth."""
    sending = threading.Thread(target=lambda: (one.sendall(bytes(n_bytes)), one.close()))
    sending.start()
    arrived = 0
    while data := other.recv(1 << 16):
        if arrived < n_bytes // 100 <= arrived + len(data):
            meanwhile()
        arrived += len(data)
    sending.join()
    other.close()
    return arrived


def qdisc(path: str, interface: str) -> tuple[str, int]:
    """Kind of the root qdisc of ``interface``, and the bytes it has counted."""
    with in_namespace(path), IPRoute() as route:
        (index,) = route.link_lookup(ifname=interface)
        (found,) = [q for q in route.get_qdiscs(index) if q["parent"] == 0xFFFFFFFF]
        return found.get_attr("TCA_KIND"), found.get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")["bytes"]


def test_each_end_shapes_its_direction_and_payload_is_counted(network):
    network.shape(0, Duplex(up=LinkProfile(rate_bps=400e6), down=LinkProfile(rate_bps=800e6)))
    assert flow(*joined(network, 0, near=0, far=1), 2_000_000) == 2_000_000
    (up, up_bytes), (down, down_bytes) = (qdisc(path, "link0") for path in network.paths[:2])
    assert (up, down) == ("tbf", "tbf")
    # 1,382 full segments; retransmissions count again. An acknowledgement counts as one byte.
    assert 2_000_000 <= up_bytes < 2_400_000
    assert down_bytes < 5000
    assert qdisc(network.paths[1], "link1")[0] == "noqueue"  # not shaped


def test_a_rate_is_never_exceeded(network):
    rate_bps, n_bytes = 40e6, 1_000_000
    network.shape(0, Duplex(up=LinkProfile(rate_bps=rate_bps), down=LinkProfile()))
    one, other = joined(network, 0, near=0, far=1)
    began_at = time.monotonic()
    flow(one, other, n_bytes)
    assert time.monotonic() - began_at >= 0.95 * 8 * n_bytes / rate_bps


def test_edges_of_a_tree_are_separate_links():
    with NamespaceNetwork("tbf", ["root", "left", "right"], [(0, 1), (0, 2)]) as network:
        network.shape(1, Duplex(up=LinkProfile(rate_bps=1e8), down=LinkProfile(rate_bps=1e8)))
        for edge, far in ((0, 1), (1, 2)):
            assert flow(*joined(network, edge, near=0, far=far), 10_000) == 10_000
            assert flow(*joined(network, edge, near=far, far=0, end=0), 10_000) == 10_000
        kinds_found = [qdisc(network.paths[0], name)[0] for name in ("link0", "link1")]
    assert kinds_found == ["noqueue", "tbf"]


def test_profiles_change_while_traffic_flows(network):
    slow = LinkProfile(rate_bps=8e6)  # 20 MB would take 20 s
    network.shape(0, Duplex(up=slow, down=slow))
    one, other = joined(network, 0, near=0, far=1)

    def change() -> None:
        before = qdisc(network.paths[0], "link0")[1]
        network.shape_end(0, 0, LinkProfile(rate_bps=2e9))
        assert qdisc(network.paths[0], "link0")[1] >= before  # the same qdisc, not a new one

    assert flow(one, other, 20_000_000, change) == 20_000_000


def test_a_thread_returns_to_its_original_namespace_which_has_no_new_interface(network):
    here = os.stat("/proc/self/ns/net").st_ino
    with IPRoute() as route:
        assert not [link for link in route.get_links() if "link0" in str(link.get_attr("IFLA_IFNAME"))]
    assert here not in {os.stat(path).st_ino for path in network.paths}
    original = os.stat("/proc/thread-self/ns/net").st_ino
    with in_namespace(network.paths[0]):
        assert os.stat("/proc/thread-self/ns/net").st_ino == os.stat(network.paths[0]).st_ino != original
    assert os.stat("/proc/thread-self/ns/net").st_ino == original
    with pytest.raises(FileNotFoundError):
        enter("/run/netns/nosuch")


def ours() -> set[str]:
    """Namespaces of this process; other processes may have some too."""
    return {name for name in netns.listnetns() if name.startswith(f"splitmec-{os.getpid()}-")}


def test_everything_is_removed_on_exit_on_exception_and_on_a_rejection_by_the_kernel():
    def fail() -> None:
        with NamespaceNetwork("tbf", *CHAIN) as network:
            assert ours() == {Path(path).name for path in network.paths}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ours() == set()
    with pytest.raises(ShapeError, match="cannot create network namespaces"):
        NamespaceNetwork("tbf", ["one"], [(0, 0)]).__enter__()  # two interfaces of one name
    assert ours() == set()
    if "netem" not in supported_shapers():
        with NamespaceNetwork("netem", *CHAIN) as network, pytest.raises(ShapeError, match="rejects netem"):
            network.shape(0, Duplex())


OWNER = """
import signal
from netem.kernel.namespace_network import NamespaceNetwork
with NamespaceNetwork("tbf", ["a", "b"], [(0, 1)]) as network:
    print(*network.paths, flush=True)
    signal.pause()
"""


def test_only_namespaces_of_dead_processes_are_removed(network):
    decoys = [f"decoy-{os.getpid()}", f"splitmec-{os.getpid()}-decoy"]
    for decoy in decoys:
        netns.create(decoy)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        theirs = [Path(path).name for path in owner.stdout.readline().split()]
        namespace_owner.remove_orphaned()
        assert ours() | set(theirs) <= set(netns.listnetns())  # both live
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert set(theirs) <= set(netns.listnetns())
        assert set(namespace_owner.remove_orphaned()) >= set(theirs)
        there = netns.listnetns()
        assert not set(theirs) & set(there)
        assert {Path(path).name for path in network.paths} | set(decoys) <= set(there)
    finally:
        owner.kill()
        owner.communicate()
        for decoy in decoys:
            netns.remove(decoy)


def test_neither_a_zombie_nor_a_later_process_with_the_same_pid_is_an_owner():
    pid, started = os.getpid(), int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    names = [f"splitmec-{pid}-{started + offset}-{namespace_owner.pid_namespace()}-0-x" for offset in (0, -1)]
    for name in names:
        netns.create(name)
    try:
        assert set(namespace_owner.remove_orphaned()) & set(names) == {names[1]}
    finally:
        netns.remove(names[0])
    child = subprocess.Popen([sys.executable, "-c", "print(open('/proc/self/stat').read())"], stdout=subprocess.PIPE)
    started = child.stdout.read().decode().rpartition(")")[2].split()[19]
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    name = f"splitmec-{child.pid}-{started}-{namespace_owner.pid_namespace()}-0-x"
    netns.create(name)
    assert name in namespace_owner.remove_orphaned()
    child.wait()


def test_addresses_of_edges_differ():
    network = NamespaceNetwork("tbf", ["a"] * 3, [(0, 1), (1, 2)])
    found = [network.address(edge, end) for edge in range(300) for end in (0, 1)]
    assert len(set(found)) == 600
    assert all(one.rpartition(".")[0] == two.rpartition(".")[0] for one, two in list(pairwise(found))[::2])
