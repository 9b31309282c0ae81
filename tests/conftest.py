"""What every test relies on."""

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Whoever starts the tests in the background may have Ctrl-C ignored, and programs started from here inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, however long one takes: that says how busy the machine is. The search with other
# examples in each run is ``--hypothesis-profile search``.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fixed", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("fixed")

# What a user would have beside the package, named as ``module:callable``; and the program of the guest kernel.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / package / "support") for package in ("nodes", "netem", "bench")]

# Files whose tests start nodes, runs or kernels or shape links: one after another, beside the others.
IN_TURN = (
    *("bench/cli/test_main", "bench/execution/", "bench/experiments/hivemind/test_live", "bench/live/"),
    *("bench/experiments/deprune/test_live", "bench/experiments/dynsplit/test_live", "bench/experiments/edge_sl/"),
    *("bench/experiments/general/test_transport", "bench/experiments/hivemind/network/test_network"),
    *("netem/test_emulate", "netem/kernel/", "nodes/wire/test_transport", "test_wheel"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run on two workers (``-n 2 --dist loadgroup``), give all that take turns to one of them."""
    for item in items:
        if item.path.relative_to(HERE).as_posix().startswith(IN_TURN):
            item.add_marker(pytest.mark.xdist_group("in turn"))
