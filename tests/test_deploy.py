"""Files that deploy nodes: they fit each other and the command line, and name all that a node needs and no more."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from bench.cli.main import parser
from bench.experiments.common.learning import node_names
from bench.live.hosts.document import HostsFile
from bench.suite.document import read
from bench.suite.strict_yaml import convert

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
NODES = node_names(5)
ALONE = """
import sys

allowed = {*sys.argv[1].split(), *sys.stdlib_module_names, "bench", "nodes", "netem", "reports", "suites"}

class Known:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        return self.finder.find_spec(name, path, target) if top in allowed or top.startswith("_") else None

sys.meta_path[:] = [Known(finder) for finder in sys.meta_path]
"""
# What the packages of requirements-node.txt import themselves.
THEIRS = """torch numpy aiohttp uvloop msgspec yaml aiohappyeyeballs aiosignal attr attrs frozenlist idna multidict
propcache yarl typing_extensions triton cuda functorch torchgen mpmath sympy filelock fsspec jinja2 markupsafe networkx
setuptools pkg_resources packaging"""
STARTS = "import bench.cli.main, bench.cli.commands.hosts, bench.cli.node"
TRAINS = f"""{STARTS}
import nodes.process.serve
from nodes.spec.job import DataSpec, Job, StageSpec
from nodes.training.in_process import run_in_process
data = DataSpec(name="none", train_samples=4, test_samples=4)
asked = {{"model": "nodes.zoo.small_cnn:small_cnn", "input_shape": (3, 16, 16), "classes": 10, "data": data}}
job = Job(nodes=("ue", "cloud"), splits=(4,), stages=(StageSpec(),), batch_size=4, epochs=1, threads=1, **asked)
assert len(run_in_process(job).losses) == 1
"""


def plain(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def arguments_of(command: list[str]) -> Any:
    """What ``bench`` makes of a command line. Exits if that is wrong."""
    assert command[0].endswith("bench")
    return parser(command[1:]).parse_args(command[1:])


def test_the_unit_starts_a_node_that_the_command_line_takes() -> None:
    lines = (DEPLOY / "splitmec-node@.service").read_text(encoding="utf-8").splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    words = shlex.split(
        unit["ExecStart"].replace("%i", "mec1").replace("${HOST}", "10.0.0.3").replace("${PORT}", "4000")
    )
    asked = arguments_of(words)
    assert (asked.name, asked.host, asked.port, asked.tls, asked.standby) == (
        "mec1",
        "10.0.0.3",
        4000,
        Path("/etc/splitmec/mec1"),
        True,
    )
    assert unit["User"] == "splitmec"
    assert unit["KillSignal"] == "SIGTERM"


def test_the_container_runs_a_node_as_no_root() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    (entry,) = re.findall(r'ENTRYPOINT \["/bin/sh", "-c", "exec (.*)"\]', text)
    asked = arguments_of(shlex.split(entry.replace('\\"', "").replace("$0", "mec1").replace("$@", "")))
    assert (asked.name, asked.tls, asked.insecure) == ("mec1", Path("/certs"), False)
    *_, user = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert int(user) > 0
    assert text.count("FROM docker.io/library/python:3.12-slim") == text.count("FROM ") == 2
    for copied in re.findall(r"^COPY (examples/\S+)", text, re.MULTILINE):
        assert (ROOT / copied).is_file()


def test_compose_and_its_hosts_are_the_same_chain_of_five() -> None:
    (compose,) = plain("compose.yaml")
    document = read(DEPLOY / "hosts.yaml")
    hosts = convert(document, HostsFile)
    assert hosts is not None, document.lines
    assert tuple(compose["services"]) == tuple(hosts.nodes) == NODES
    for name, service in compose["services"].items():
        assert service["command"] == [name]
        assert service["volumes"] == [f"../../certs/{name}:/certs:ro"]
        assert service["build"]["dockerfile"] == "examples/deploy/Containerfile"
        assert "BENCH_TOKEN" in service["environment"]
        assert hosts.nodes[name].address == f"{service['networks']['runner']['ipv4_address']}:4000"


def test_each_pod_of_kubernetes_is_one_node_behind_its_service() -> None:
    manifests = plain("kubernetes.yaml")
    assert [(one["kind"], one["metadata"]["name"]) for one in manifests] == [
        (kind, name) for name in NODES for kind in ("Service", "Deployment")
    ]
    for service, deployment in zip(manifests[::2], manifests[1::2], strict=True):
        assert (service["apiVersion"], deployment["apiVersion"]) == ("v1", "apps/v1")
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == service["spec"]["selector"] == labels
        assert spec["replicas"] == 1
        assert container["args"] == [name]
        assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"] == 4000
        assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        assert volumes["certs"]["secret"] == {"secretName": f"splitmec-{name}", "defaultMode": 0o440}


def test_a_node_needs_what_its_requirements_say_within_the_project_s_ranges() -> None:
    lines = (DEPLOY / "requirements-node.txt").read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if line and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert set(asked) <= set(project)
    assert {Requirement(line).name for line in asked} == {"torch", "aiohttp", "uvloop", "msgspec", "pyyaml", "numpy"}


@pytest.mark.parametrize(("does", "torch"), [(STARTS, False), (TRAINS, True)], ids=["standby", "job"])
def test_a_node_imports_nothing_else(does: str, torch: bool) -> None:
    command = [sys.executable, "-c", f"{ALONE}\n{does}\nprint('torch' in sys.modules)", THEIRS]
    found = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(torch)]
