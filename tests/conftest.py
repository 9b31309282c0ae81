"""What every test relies on."""

import signal
import sys
from pathlib import Path

# Whoever starts the tests in the background may have Ctrl-C ignored, and programs started from here inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What a user would have beside the package, named as ``module:callable``; and the program of the guest kernel.
sys.path[:0] = [str(Path(__file__).parent / package / "support") for package in ("nodes", "netem")]
