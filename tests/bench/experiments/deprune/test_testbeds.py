"""Deprune's testbeds in virtual time, against steps added up by hand."""

import pytest
from measured import values
from msgspec.structs import replace

from bench.experiments.deprune.testbeds import NamedDevices, named_devices
from bench.suite.parameter_types import ModelName

HALF_TRIP_S, LABELS = 0.335e-3, 64 * 8
FORWARD_MACS = {  # of VGG-11 at 32x32, a picture; the cut is after the second pool
    "source": 9 * (3 * 64 * 32**2 + 64 * 128 * 16**2),
    "server": 9 * (128 * 256 * 8**2 + 256 * 256 * 8**2 + 256 * 512 * 4**2 + 512 * 512 * (4**2 + 2 * 2**2))
    + 512 * 49 * 4096 + 4096 * 4096 + 4096 * 10,
}  # fmt: skip


def test_a_step_over_ethernet_is_that_by_hand(context):
    context = replace(context, mode="virtual", dataset="none")
    shape = {"testbed": "ethernet", "batch_size": 64, "train_samples": 256, "test_samples": 1}
    found = list(named_devices(NamedDevices(**shape, rates_bps=(1e9, 1e10)), context))
    compute_s = 64 * 3 * 2 * (FORWARD_MACS["source"] / 35.6e12 + FORWARD_MACS["server"] / 82.6e12)
    update_s = 12 * (128.8e6 / 1008e9)  # the source's 76,000 parameters are none beside
    for rate_bps in (1e9, 1e10):
        for module, maps in ((True, 4), (False, 128)):
            link_s = (2 * 64 * maps * 64 * 4 + LABELS) * 8 / rate_bps + 2 * HALF_TRIP_S
            expected = 64 / (compute_s + update_s + link_s)
            assert values(found, "all_samples_per_s", rate_bps=rate_bps, module=module) == [
                pytest.approx(expected, rel=0.02)
            ]
    with_module, without = (values(found, "all_samples_per_s", rate_bps=1e9, module=one)[0] for one in (True, False))
    assert values(found, "most_speedup", rate_bps=1e9) == [pytest.approx(with_module / without)]


def test_eight_sources_over_a_slow_channel_gain_what_they_spare(context):
    context = replace(context, mode="virtual", dataset="none")
    shape = {"model": ModelName("tiny_vgg11"), "batch_size": 16}
    (gain,) = values(list(named_devices(NamedDevices(**shape, rates_bps=(1e5,)), context)), "most_speedup")
    there_and_back = [2 * 16 * maps * 64 * 4 + 16 * 8 for maps in (16, 1)]
    assert gain == pytest.approx(there_and_back[0] / there_and_back[1], rel=0.1)  # headers count beside one map


def test_pictures_are_refused(problems_of):
    assert ("dataset",) in problems_of(NamedDevices(train_samples=800, test_samples=8), "virtual", "digits")
    assert not problems_of(NamedDevices(train_samples=800, test_samples=8), "virtual", "none")
