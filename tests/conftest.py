"""What every test relies on."""

import signal

# Whoever starts the tests in the background may have Ctrl-C ignored, and programs started from here inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
