"""Calibration with a reader so late that everything has arrived at once."""

from netem.arrival_estimates import Stamp
from netem.calibrate import measure
from netem.link import LinkProfile


class LateProbe:
    """Probe whose far end reads the header of each message and all the rest at once, late."""

    async def send(self, n_bytes: int) -> tuple[float, float, list[Stamp]]:
        return 0.5, 0.6, [(9.0, 8), (9.0, n_bytes)]


async def test_the_rate_of_a_stream_read_at_once_is_too_high():
    link = LinkProfile(rate_bps=1e6, delay_s=0.01)
    measured = await measure(LateProbe(), link, bulk_s=0.1, messages=2, sizes=(4096,))
    assert measured.rate_bps > 1.05 * 1e6
    assert (measured.delay_s, measured.round_trip_s, measured.message_s) == (0.5, 0.6, {4096: 0.5})
