"""A run on six machines: network namespaces with no route between them but the declared links, over mutual TLS.

Some nodes are started by hand, others by a command, as ssh would. Needs root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import msgspec
import pytest

from bench.live.hosts.certificates import make_authority, make_leaf
from bench.live.hosts.document import TOKEN_VARIABLE
from netem.kernel import namespace_owner
from reports.record import Record, read_records

TOKEN = "correct horse battery staple"
ROOT = Path(__file__).parents[4]
NODES = ("ue", "mec", "cloud", "client1", "edge1")
LINKS = (("ue", "mec"), ("mec", "cloud"), ("client1", "edge1"), *(("runner", name) for name in NODES))
BY_HAND = ("ue", "mec")
CHAIN = """
    run: pipeline.chain
    parameters: {model: small_cnn, nodes: 3, side: 16, train_samples: 32, test_samples: 16, batch_size: 16%s}
"""
FEDERATION = """
    run: edge_sl.course
    parameters: {model: small_cnn, clients: 1, side: 16, train_samples: 32, test_samples: 16, batch_size: 16}
"""
LINK = ", link: {up: {rate_bps: 40e6, delay_s: 0.002}, down: {rate_bps: 40e6, delay_s: 0.002}}"
SUITE = f"""name: far
dataset: digits
experiments:
  - name: chain{CHAIN % LINK}
  - name: federation{FEDERATION}
  - name: here-chain
    mode: in-process{CHAIN % ""}
  - name: here-federation
    mode: in-process{FEDERATION}
  - name: service
    run: live_route.steady
    dataset: none
    parameters:
      model: small_cnn
      input_side: 16
      model_compute_s: {{ue: 0.06, mec: 0.03, cloud: 0.02}}
      links: {{ue-mec: {{rate_bps: 40e6, delay_s: 0.001}}, mec-cloud: {{rate_bps: 40e6, delay_s: 0.001}}}}
      before: [ue, mec, cloud]
      tasks: 2
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """Names of the namespaces, each with an address of its own, and routes to those that a link joins it to."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("openssl"):
        pytest.skip("needs root, ip and openssl")
    with ExitStack() as stack:
        try:
            paths = {name: namespace_owner.create(name) for name in ("runner", *NODES)}
        except OSError as error:
            pytest.skip(f"no network namespaces: {error}")
        for path in paths.values():
            stack.callback(namespace_owner.remove, path)
        names = {name: Path(path).name for name, path in paths.items()}
        for name, namespace in names.items():
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "addr", "add", f"{address(name)}/32", "dev", "lo")
        for number, ends in zip(count(), LINKS, strict=False):
            near, far = (names[end] for end in ends)
            ip("-n", near, "link", "add", f"v{number}", "type", "veth", "peer", "name", f"v{number}", "netns", far)
            for here, there in (ends, ends[::-1]):
                ip("-n", names[here], "link", "set", f"v{number}", "up")
                route = ("route", "add", f"{address(there)}/32", "dev", f"v{number}", "src", address(here))
                ip("-n", names[here], *route)
        yield names


def address(name: str) -> str:
    return f"10.77.0.{1 + ('runner', *NODES).index(name)}"


@pytest.mark.nightly
def test_a_chain_a_service_and_a_federation_run_on_machines_of_their_own(machines, tmp_path):
    for near, far in (("ue", "cloud"), ("client1", "mec"), ("edge1", "cloud")):
        found = subprocess.run(
            ["ip", "-n", machines[near], "route", "get", address(far)], check=False, capture_output=True
        )
        assert found.returncode, f"{near} reaches {far}"
    make_authority(tmp_path / "certs")
    for name in ("runner", *NODES):
        make_leaf(tmp_path / "certs", name, [])
    bench = f"{sys.executable} -m bench.cli.main"
    lines = ["tls: certs/runner", "wait_s: 120", "nodes:"]
    for name in NODES:
        how = "" if name in BY_HAND else f", start: ssh, command: ip netns exec {machines[name]} {bench}"
        lines.append(f"  {name}: {{address: '{address(name)}:4000', tls: {tmp_path / 'certs' / name}{how}}}")
    (tmp_path / "hosts.yaml").write_text("\n".join(lines))
    (tmp_path / "far.yaml").write_text(SUITE)
    environment = os.environ | {"PYTHONPATH": str(ROOT), TOKEN_VARIABLE: TOKEN, "OMP_NUM_THREADS": "1"}
    of_bench = {"cwd": tmp_path, "env": environment}
    by_hand = []
    try:
        for name in BY_HAND:
            there = ("--host", address(name), "--port", "4000", "--tls", str(tmp_path / "certs" / name))
            command = ["ip", "netns", "exec", machines[name], *bench.split(), "node", name, *there]
            by_hand.append(subprocess.Popen(command, **of_bench))
        run = ["ip", "netns", "exec", machines["runner"], *bench.split(), "run", "far.yaml"]
        options = ["--hosts", "hosts.yaml", "--out", "out", "--allow-uncalibrated", "--device", "cpu"]
        ran = subprocess.run([*run, *options], check=False, **of_bench, capture_output=True, text=True, timeout=500)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert TOKEN not in ran.stdout + ran.stderr + (tmp_path / "out" / "run.log").read_text()
        assert f"on its machine: bench node ue --host {address('ue')} --port 4000 --tls" in ran.stdout
        for node in by_hand:  # SIGTERM: an idle node ends well
            node.terminate()
            assert node.wait(120) == 0
    finally:
        for node in by_hand:
            node.kill()
            node.wait()
    found = list(read_records(tmp_path / "out" / "records.jsonl"))
    assert_as_in_process(found)
    latencies = [one.value for one in found if one.experiment == "service" and one.metric == "latency_ms"]
    assert len(latencies) == 2
    assert all(0 < value < 60_000 for value in latencies)
    conditions = msgspec.json.decode((tmp_path / "out" / "environment.json").read_bytes())
    assert conditions["hosts"] == {name: f"{address(name)}:4000" for name in NODES}
    for measured in conditions["measured_hosts"].values():  # all clocks here are one
        assert abs(measured["clock_offset_s"]) <= measured["clock_uncertainty_s"] < 1
    assert conditions["measured_hosts"]["ue"]["round_trip_s"].keys() == {"mec"}


def assert_as_in_process(found: list[Record]) -> None:
    """The trainings lost as much as in one process, and no byte was lost."""
    for name, metric in (("chain", "final_loss_nats"), ("federation", "training_loss_nats")):
        of_metric = [one for one in found if one.metric == metric]
        far, here = ([one.value for one in of_metric if one.experiment == n] for n in (name, f"here-{name}"))
        assert far == here != []
    lost = [one.value for one in found if one.metric == "unacknowledged_bytes"]
    assert lost
    assert not any(lost)
