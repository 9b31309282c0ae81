"""Modules that a user would have beside the package: named by ``module:callable``, so they must be importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
