"""Does what a paper says hold in what was measured? A claim is data; judging it reads records, nothing else."""

from typing import Literal

import msgspec

Verdict = Literal["reproduced", "trend", "not-reproduced", "not-comparable", "inconsistent-in-paper", "not-run"]
