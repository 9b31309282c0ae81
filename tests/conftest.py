"""What every test relies on."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Whoever starts the tests in the background may have Ctrl-C ignored, and programs started from here inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Networks are small here, and every core has a worker: more threads, also of programs started from here, only spin.
os.environ["OMP_NUM_THREADS"] = "1"

# The same examples every time, however long one takes: that says how busy the machine is. The search with other
# examples in each run is ``--hypothesis-profile search``, also where CI is set, with which hypothesis would fix them.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", patient, derandomize=False)
settings.register_profile("fixed", patient, derandomize=True, database=None)
settings.load_profile("fixed")

# What a user would have beside the package, named as ``module:callable``; and the program of the guest kernel.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / package / "support") for package in ("nodes", "netem", "bench")]
pytest_plugins = ["promises"]

# Files whose tests shape links, or hold nodes to a time, and that must not meet: one after another, beside the others.
IN_TURN = (
    *("bench/experiments/deprune/test_live", "bench/experiments/dynsplit/test_live", "bench/experiments/general/"),
    *("bench/experiments/hivemind/test_live", "bench/live/", "netem/test_emulate", "netem/kernel/", "test_wheel"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run on two workers (``-n 2 --dist loadgroup``), give all that take turns to one of them.

    Of any other file one worker runs all tests, so that what they share is made once; nightly ones take too long.
    """
    for item in items:
        file = item.path.relative_to(HERE).as_posix()
        if not any(map(item.get_closest_marker, ("xdist_group", "nightly"))):
            item.add_marker(pytest.mark.xdist_group("in turn" if file.startswith(IN_TURN) else file))
