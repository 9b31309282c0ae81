"""The installed package works in any folder, with all it needs in it."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import bench

BENCH = Path(sys.executable).with_name("bench")


def installed(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command in ``folder``, where no checkout is."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [BENCH, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


pytestmark = pytest.mark.skipif(
    "TOX_ENV_NAME" not in os.environ and "site-packages" not in str(bench.__file__),
    reason="runs on an installed wheel, as under tox; this is a checkout",
)


def test_the_code_that_is_tested_is_the_wheel() -> None:
    assert "site-packages" in str(bench.__file__)


def test_suites_are_in_the_wheel(tmp_path: Path) -> None:
    packaged = {str(file) for file in metadata.files("splitmec") or []}
    assert {"suites/all.yaml", "suites/pipeline.yaml", "suites/transport.yaml"} <= packaged
    assert {"suites/dynsplit/suite.yaml", "suites/dynsplit/claims.yaml", "suites/deprune/cifar10.yaml"} <= packaged
    assert {"netem/traces/wifi.csv", "suites/cellular.yaml"} <= packaged
    assert {f"bench/watch/page/watch.{kind}" for kind in ("html", "css", "js")} <= packaged
    assert {f"{package}/py.typed" for package in ("bench", "nodes", "netem", "reports", "suites")} <= packaged
    listed = installed("list", "--json", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert {"all", "pipeline", "transport", "dynsplit", "deprune_cifar10", "edge_privacy"} <= {
        suite["name"] for suite in json.loads(listed.stdout)
    }


def test_an_installed_bench_runs_nodes_in_any_folder(tmp_path: Path) -> None:
    ran = installed("run", "pipeline", "--scale", "smoke", "--only", "equality", "--out", "out", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    pids = {record["value"] for record in records if record["metric"] == "pid"}
    assert len(pids) == 2 + 3 + 5
    claims = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert {"claim": "split-equals-unsplit", "verdict": "reproduced"}.items() <= claims[0].items()
    assert (tmp_path / "out" / "report.md").stat().st_size > 1000
    assert list((tmp_path / "out" / "figures").glob("*.png"))
