"""Generator of the packaged traces: ``python -m netem.traces.generate FOLDER`` writes the same files again.

The logarithm of the rate is a first-order Gauss-Markov process, interrupted by blockages (a body or a lorry in the
beam, another station on the channel). The parameters are assumptions of the magnitude that measurement studies
report; they are not fitted to any data set.
"""

import math
import random
import sys
from pathlib import Path

import msgspec

from netem.trace import RateChange, Trace, write_csv

SEED = 1
STEP_S = 0.1
STEPS = 600


class TraceKind(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of one kind of link."""

    median_bps: float
    spread: float  # standard deviation of the rate's natural logarithm
    coherence_s: float  # until its correlation has fallen to 1/e
    clear_s: float  # mean time without a blockage
    blocked_s: float  # mean duration of a blockage
    blocked_share: float  # factor of a blockage on the rate
    blocked_delay: float  # factor of a blockage on the delay
    delay_s: float
    jitter_s: float
    loss: float


KINDS = {
    "5g-mmwave-walking": TraceKind(
        median_bps=500e6, spread=0.35, coherence_s=1.5, clear_s=8.0, blocked_s=0.6, blocked_share=0.05,
        blocked_delay=2.0, delay_s=0.008, jitter_s=0.001, loss=1e-5,
    ),
    "5g-mmwave-driving": TraceKind(
        median_bps=300e6, spread=0.7, coherence_s=0.3, clear_s=3.0, blocked_s=0.8, blocked_share=0.02,
        blocked_delay=2.5, delay_s=0.012, jitter_s=0.003, loss=1e-4,
    ),
    "5g-sub6": TraceKind(
        median_bps=80e6, spread=0.4, coherence_s=1.0, clear_s=20.0, blocked_s=0.5, blocked_share=0.3,
        blocked_delay=1.5, delay_s=0.010, jitter_s=0.002, loss=1e-5,
    ),
    "wifi": TraceKind(
        median_bps=90e6, spread=0.25, coherence_s=0.3, clear_s=2.0, blocked_s=0.2, blocked_share=0.3,
        blocked_delay=2.0, delay_s=0.003, jitter_s=0.001, loss=1e-4,
    ),
}  # fmt: skip


def generate(kind: TraceKind, rng: random.Random) -> Trace:
    """Generate one minute of trace. Rates are rounded to 10 kbit/s and delays to 10 us, which keeps files small."""
    correlation = math.exp(-STEP_S / kind.coherence_s)
    level, blocked = rng.gauss(0.0, 1.0), False
    changes = []
    for step in range(STEPS):
        rate_bps = kind.median_bps * math.exp(kind.spread * level) * (kind.blocked_share if blocked else 1.0)
        delay_s = kind.delay_s * (kind.blocked_delay if blocked else 1.0)
        changes.append(
            RateChange(
                time_s=round(step * STEP_S, 6),
                rate_bps=round(rate_bps, -4),
                delay_s=round(delay_s, 5),
                jitter_s=kind.jitter_s,
                loss=kind.loss,
            )
        )
        level = correlation * level + math.sqrt(1 - correlation**2) * rng.gauss(0.0, 1.0)
        mean_s = kind.blocked_s if blocked else kind.clear_s
        blocked ^= rng.random() < -math.expm1(-STEP_S / mean_s)
    return Trace(tuple(changes), STEPS * STEP_S)


if __name__ == "__main__":
    for name, kind in KINDS.items():
        write_csv(generate(kind, random.Random(f"{SEED} {name}")), Path(sys.argv[1], f"{name}.csv"))
