"""Machines that are not here: the roofline by hand, what was calibrated, and the order that specifications demand."""

import pytest

from nodes.costs import devices
from nodes.costs.devices import RASPBERRY_PI_3BP, Hardware, layer_s, predict_profile
from nodes.costs.workload import load_workload

MACHINE = Hardware(name="m", peak_flops=1e9, efficiency=0.5, memory_bps=1e8, layer_overhead_s=0.001, power_w=3.0)


def test_the_slower_of_arithmetic_and_memory():
    assert layer_s(MACHINE, flops=1e6, moved_bytes=1e3) == pytest.approx(0.001 + 0.002)
    assert layer_s(MACHINE, flops=1e6, moved_bytes=1e6) == pytest.approx(0.001 + 0.01)


def test_resnet18_takes_hiveminds_130_ms_on_the_raspberry_pi():
    forward_s = predict_profile(RASPBERRY_PI_3BP, load_workload("resnet18-88")).forward_s
    assert sum(forward_s) == pytest.approx(0.130, abs=0.0005)


@pytest.mark.parametrize("name", ["resnet18-88", "vgg11-88", "faster_rcnn-120"])
def test_nearer_the_cloud_is_faster(name):
    """HiveMind, section IV-D assumes it of every layer; here it holds of each on the UE against the others."""
    chain = [RASPBERRY_PI_3BP, devices.MACBOOK_AIR_M1, devices.RTX_2080_PC, devices.GTX_1080TI_SERVER]
    ue, mec, core, cloud = [predict_profile(device, load_workload(name)) for device in chain]
    assert all(slow > fast for slow, fast in zip(ue.forward_s, mec.forward_s, strict=True))
    assert sum(mec.forward_s) > sum(core.forward_s) > sum(cloud.forward_s)


def test_a_profile_has_twice_the_time_backward_and_the_energy_of_its_time():
    profile = predict_profile(RASPBERRY_PI_3BP, load_workload("vgg11-88"))
    assert sum(profile.backward_s) == pytest.approx(2 * sum(profile.forward_s))
    assert sum(profile.forward_j) == pytest.approx(RASPBERRY_PI_3BP.power_w * sum(profile.forward_s))
    half = profile.scaled(0.5)
    assert sum(half.backward_j) == pytest.approx(0.5 * sum(profile.backward_j))
    assert half.boundary_bytes == profile.boundary_bytes
