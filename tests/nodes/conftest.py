"""Makes importable what a user would have beside the package and name as ``module:callable``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
