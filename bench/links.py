"""What do the named links really do on this machine? Their profiles beside what is measured through them."""

import asyncio
from typing import Any

from netem.calibrate import Calibration, answering, measure
from netem.emulate import Emulator
from netem.link import LinkProfile
from netem.profiles import LINKS

BULK_S = 1.0  # how long the bytes that give the rate are to take
UNLIMITED_BYTES = 64 << 20  # what gives the rate where the profile has none
MESSAGES = 50

Row = dict[str, Any]


def run_links() -> list[Row]:
    """A row for each direction of each named link: what is asked for and what was measured."""
    return asyncio.run(_measure_all())


async def _measure_all() -> list[Row]:
    rows = []
    async with Emulator() as emulator, answering() as target:
        for name, link in LINKS.items():
            for direction, profile in {"down": link.down, "up": link.up}.items():
                address = target
                if not profile.unlimited:
                    back = LinkProfile(delay_s=profile.delay_s)
                    address = await emulator.add_link(target, up=profile, down=back)
                bulk_bytes = round((profile.rate_bps or 0) * BULK_S / 8) or UNLIMITED_BYTES
                found = await measure(address, bulk_bytes, messages=MESSAGES, sizes=())
                rows.append(_row(name, direction, profile, found))
    return rows


def _row(name: str, direction: str, profile: LinkProfile, found: Calibration) -> Row:
    return {
        "link": name,
        "direction": direction,
        "rate_bps": profile.rate_bps,
        "measured_rate_bps": found.rate_bps,
        "delay_s": profile.delay_s,
        "jitter_s": profile.jitter_s,
        "loss": profile.loss,
        "measured_delay_s": found.delay_s,
        "measured_delay_p99_s": found.delay_p99_s,
    }


def as_lines(rows: list[Row]) -> list[str]:
    """``rows`` for a person: rates in Mbit/s, delays one way in ms, asked for and measured."""
    lines = [f"{'link':<11}{'':<6}{'Mbit/s':>10}{'measured':>10}{'ms':>8}{'measured':>10}{'p99':>8}"]
    for row in rows:
        asked = "unlimited" if row["rate_bps"] is None else f"{row['rate_bps'] / 1e6:.1f}"
        rate = row["measured_rate_bps"] / 1e6
        delays_ms = [row[key] * 1e3 for key in ("delay_s", "measured_delay_s", "measured_delay_p99_s")]
        lines.append(
            f"{row['link']:<11}{row['direction']:<6}{asked:>10}{rate:>10.1f}"
            f"{delays_ms[0]:>8.2f}{delays_ms[1]:>10.2f}{delays_ms[2]:>8.2f}"
        )
    return lines
