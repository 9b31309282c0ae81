"""What is measured where the reader was so late that all had come at once."""

from netem.arrival_estimates import Stamp
from netem.calibrate import measure
from netem.link import LinkProfile


class Late:
    """Stands for a probe whose far end read the head of each message and then the rest of it, late."""

    async def ask(self, n_bytes: int) -> tuple[float, float, list[Stamp]]:
        return 0.5, 0.6, [(9.0, 8), (9.0, n_bytes)]


async def test_a_stream_read_in_one_piece_has_a_rate_that_is_off():
    seen = await measure(Late(), LinkProfile(rate_bps=1e6, delay_s=0.01), bulk_s=0.1, messages=2, sizes=(4096,))
    assert seen.rate_bps > 1.05 * 1e6
    assert (seen.delay_s, seen.round_trip_s, seen.message_s) == (0.5, 0.6, {4096: 0.5})
