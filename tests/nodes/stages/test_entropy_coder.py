"""Levels come back exactly in about their entropy; what was changed or is something else is one error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.stages.entropy_coder import BITS, HELD, Counts, decode_levels, encode_levels


def drawn(count: int, size: int, levels: int, sharpness: float, seed: int = 0) -> torch.Tensor:
    """Levels of a bell whose place differs along the row."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.linspace(0.2, 0.8, size) * levels
    spread = max(0.4, levels / sharpness)
    return (torch.randn(count, size, generator=generator) * spread + middle).clamp(0, levels - 1).to(torch.uint8)


def learned(rows: torch.Tensor, channels: int, levels: int) -> torch.Tensor:
    counts = Counts(channels, rows.shape[1] // channels, levels)
    counts.add(rows)
    return counts.frequencies()


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 70), st.sampled_from([1, 2, 4]), st.integers(1, 24), st.integers(1, 8), st.integers(0, 99))
def test_any_levels_come_back_whatever_the_tables_were_learned_from(count, channels, places, bits, seed):
    levels = 2**bits
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(levels, (count, channels * places), generator=generator).to(torch.uint8)
    for frequencies in (Counts(channels, places, levels).frequencies(), learned(rows // 2, channels, levels)):
        packed = encode_levels(rows, frequencies)
        assert packed.dtype == torch.uint8
        assert torch.equal(decode_levels(packed, frequencies), rows)


@pytest.mark.parametrize(("bits", "sharpness"), [(8, 16), (8, 200), (4, 8), (2, 4)])
def test_the_length_is_near_the_entropy_of_each_place(bits, sharpness):
    rows = drawn(2000, 32, 2**bits, sharpness)
    optimum = 0.0
    for place in rows.T:
        share = torch.bincount(place.int(), minlength=2**bits).double() / len(rows)
        optimum -= len(rows) * float(torch.xlogy(share, share).sum()) / math.log(2)
    assert optimum / 8 <= encode_levels(rows, learned(rows, 4, 2**bits)).nbytes <= 1.05 * optimum / 8 + 16


def test_tables_of_like_data_serve_others_almost_as_well_and_a_place_that_saw_little_goes_by_its_channel():
    rows, others = drawn(2000, 32, 64, 16, seed=1), drawn(2000, 32, 64, 16, seed=2)
    own, theirs = (encode_levels(rows, learned(of, 4, 64)).nbytes for of in (rows, others))
    assert own < theirs < 1.03 * own
    rows = drawn(2000, 1, 64, 16).repeat(1, 8)[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    few = learned(rows[:20], 1, 64)
    alone = encode_levels(rows, learned(rows[:20, :1], 1, 64).repeat(8, 1)).nbytes
    shuffled = torch.stack([rows[20 * i : 20 * i + 20, 0] for i in range(8)], 1)  # eight times as many in the channel
    assert torch.equal(few, learned(rows[:20, :1], 1, 64).repeat(8, 1))
    assert encode_levels(rows, learned(shuffled, 1, 64)).nbytes < alone


def test_frequencies_are_whole_none_is_lost_and_what_crossed_long_ago_fades():
    counts = Counts(3, 2, 256)
    counts.add(torch.full((1000, 6), 7, dtype=torch.uint8))
    for seen in (torch.zeros(3, 2, 256, dtype=torch.int64), counts.seen):
        counts.seen = seen
        frequencies = counts.frequencies()
        assert frequencies.sum(1).tolist() == [1 << BITS] * 6
        assert frequencies.min() >= 1
    assert frequencies[0, 7] == (1 << BITS) - 255
    assert Counts(1, 1, 4).frequencies().tolist() == [[1 << 13] * 4]
    counts = Counts(1, 1, 2)
    counts.add(torch.zeros(HELD, 1, dtype=torch.uint8))
    assert counts.seen.tolist() == [[[HELD, 0]]]
    counts.add(torch.ones(HELD // 2, 1, dtype=torch.uint8))
    assert counts.seen.tolist() == [[[HELD // 2, HELD // 4]]]


ROWS = drawn(33, 32, 16, 8)
TABLES = learned(ROWS, 4, 16)
PACKED = encode_levels(ROWS, TABLES)


def test_a_changed_byte_is_one_error_wherever_it_stands_and_other_tables_are_noticed():
    for place in range(0, len(PACKED), 7):
        changed = PACKED.clone()
        changed[place] ^= 0x15
        with pytest.raises(ValueError, match=r"^coded levels: "):
            decode_levels(changed, TABLES)
    with pytest.raises(ValueError, match="coded with other tables"):
        decode_levels(PACKED, learned(ROWS.flip(1), 4, 16))


@pytest.mark.parametrize(
    "wrong",
    [
        *(PACKED[:-2], PACKED[:-1], torch.cat([PACKED, PACKED[:2]]), PACKED[:3], PACKED[:0]),
        torch.tensor([255, 255, 255, 255, 0, 0, 0, 0], dtype=torch.uint8),  # four thousand million rows
        *(torch.zeros(100, dtype=torch.uint8), PACKED.float(), PACKED[None]),
    ],
)
def test_what_is_no_coded_rows_is_refused(wrong):
    with pytest.raises(ValueError, match="coded"):
        decode_levels(wrong, TABLES)


def test_the_bytes_are_these():
    """By hand: shares 3/4 and 1/4, 1/2 and 1/2; a state of 2^16 takes the row 1, 0, the last first; no word is due."""
    frequencies = torch.tensor([[3 << 13, 1 << 13], [1 << 14, 1 << 14]])
    state = 1 << 16
    for share, before in ((1 << 14, 0), (1 << 13, 3 << 13)):
        state = (state // share << 15) + state % share + before
    expected = [1, 0, 0, 0, *state.to_bytes(4, "little")]
    assert encode_levels(torch.tensor([[1, 0]], dtype=torch.uint8), frequencies).tolist() == expected
