"""The transport benchmark: what it yields, and that its peer process never outlives it."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.experiments.general.transport import HopParameters, Loop, hop
from bench.suite.experiment import Context

WAYS = {"splitmec", "raw", "gloo", "pickle"}
KILLED = """
import os, pathlib, sys
from bench.suite.experiment import Context
from bench.experiments.general.transport import HopParameters, hop

if __name__ == "__main__":
    context = Context(
        seed=0, scale="smoke", mode="live", shaping="none", dataset="none", data_dir=None, device="cpu",
        scratch=pathlib.Path(sys.argv[1]),
        say=lambda line: (print("measuring", flush=True), os.kill(os.getpid(), 9)),
    )
    list(hop(HopParameters(sizes_bytes=(4096, 65536), hops=2, warmup=1), context))
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_every_way_is_measured_at_every_size(context: Context, loop: Loop) -> None:
    said: list[str] = []
    parameters = HopParameters(sizes_bytes=(4096, 300_000), hops=5, warmup=1, loop=loop)
    measured = list(hop(parameters, replace(context, mode="live", dataset="none", say=said.append)))
    for size in parameters.sizes_bytes:
        here = [m for m in measured if m.case["size_bytes"] == size]
        assert {m.case["loop"] for m in here} == {loop}
        median_s = {m.case["way"]: m.value for m in here if m.metric == "median_s"}
        p99_s = {m.case["way"]: m.value for m in here if m.metric == "p99_s"}
        ratios = {m.metric: m.value for m in here if m.unit == "1"}
        assert set(median_s) == set(p99_s) == WAYS
        assert all(0 < median_s[way] <= p99_s[way] for way in WAYS)
        assert ratios == {f"ratio_to_{way}": median_s["splitmec"] / median_s[way] for way in ("raw", "gloo", "pickle")}
    assert len(said) == 2
    assert not multiprocessing.active_children()


def test_the_peer_ends_when_the_benchmark_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    # The peer holds the output too: it ends only when both are gone.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, tmp_path]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, env=environment)
    assert done.returncode == -9
    assert done.stdout == b"measuring\n"
