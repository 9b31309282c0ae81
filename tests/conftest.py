"""What every test relies on."""

import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# Whoever starts the tests in the background may have Ctrl-C ignored, and programs started from here inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# What a user would have beside the package, named as ``module:callable``; and the program of the guest kernel.
sys.path[:0] = [str(Path(__file__).parent / package / "support") for package in ("nodes", "netem")]
