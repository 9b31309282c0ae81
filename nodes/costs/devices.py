"""Predicted time and energy of a network's layers on the four machines of HiveMind, by the roofline model.

A layer takes the longer of its arithmetic and its memory traffic, and a fixed overhead. The machines are those of
HiveMind, section VII-A4, by their makers' data sheets. The part of its peak that a processor reaches in dense layers
with one picture is calibrated; everything else is a prediction.

A backward pass takes two of each forward operation: the gradients of the input and of the weights.
"""

import msgspec

from nodes.costs.energy import Radio
from nodes.costs.profile import Profile, profile_of
from nodes.costs.workload import Workload

BACKWARD = 2.0  # backward over forward: one product for the input's gradient, one for the weights'


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of a machine that determine the time of a layer, and the power while it computes."""

    name: str
    peak_flops: float  # float32 operations per second
    efficiency: float  # part of peak_flops that convolutions and matrix products reach with one picture
    memory_bps: float  # bytes per second
    layer_overhead_s: float  # to start a layer
    power_w: float


# Calibrated: with them ResNet-18 at 88x88 takes HiveMind's 130 ms (section VII-C3) on the Raspberry Pi, and the tasks
# that it splits under high load over mmWave take 79 ms on average (section VII-B1), most of it on one MacBook. Torch of
# 2021 had next to nothing tuned for the latter; both are far below the peak, as they must be.
RASPBERRY_EFFICIENCY = 0.1122
MACBOOK_EFFICIENCY = 0.0311

RASPBERRY_PI_3BP = Hardware(
    name="Raspberry Pi 3 Model B+",
    peak_flops=44.8e9,  # 4 Cortex-A53 at 1.4 GHz, one 128-bit NEON product-sum a cycle each
    efficiency=RASPBERRY_EFFICIENCY,
    memory_bps=2.2e9,  # LPDDR2 at 900 MT/s, 32 bits: 3.6 GB/s at most; copies reach three fifths
    layer_overhead_s=100e-6,  # assumption: an eager operator's 5 us on a desktop core, 20 times as long on this one
    power_w=5.5,  # all four cores busy: about 1.1 A at 5 V
)
MACBOOK_AIR_M1 = Hardware(
    name="MacBook Air M1",
    # 4 performance cores at 3.2 GHz, four 128-bit NEON product-sums a cycle each; torch of 2021 could not use its GPU
    peak_flops=409.6e9,
    efficiency=MACBOOK_EFFICIENCY,
    memory_bps=60e9,  # LPDDR4X at 4266 MT/s, 128 bits: 68 GB/s at most
    layer_overhead_s=5e-6,  # an eager operator on a fast core
    power_w=10.0,  # the passively cooled package, sustained
)
RTX_2080_PC = Hardware(
    name="Ryzen 3800X, RTX 2080",
    peak_flops=10.07e12,  # 2944 lanes at 1.71 GHz
    efficiency=0.25,  # assumption: convolutions of one small picture fill a quarter of the lanes
    memory_bps=448e9,  # GDDR6 at 14 Gbit/s, 256 bits
    layer_overhead_s=20e-6,  # an eager operator and the kernel it launches
    power_w=215.0 + 60.0,  # the card's board power, and the rest of the machine with one core busy
)
GTX_1080TI_SERVER = Hardware(
    name="i9-9990XE, 4x GTX 1080 Ti",
    peak_flops=11.34e12,  # one card, 3584 lanes at 1.58 GHz: a single picture is not shared among four
    efficiency=0.25,  # as above
    memory_bps=484e9,  # GDDR5X at 11 Gbit/s, 352 bits
    layer_overhead_s=20e-6,
    power_w=250.0 + 120.0,  # one card's board power; the machine with three idle ones
)

# Power of a 5G radio rises linearly with its rate, so energy per bit falls (Xu et al., SIGCOMM 2020, section 6). Slopes
# uplink and downlink as measured by Narayanan et al. (SIGCOMM 2021, table 8); the base of mmWave from the rate at which
# they find it to draw level with LTE, about 40 Mbit/s upwards; that of sub-6 GHz likewise, rounded: an assumption.
MMWAVE_SENDING = Radio(base_w=3.5, w_per_bps=9.42e-9)
MMWAVE_RECEIVING = Radio(base_w=3.5, w_per_bps=1.81e-9)
SUB6_SENDING = Radio(base_w=1.3, w_per_bps=29.15e-9)
SUB6_RECEIVING = Radio(base_w=1.3, w_per_bps=13.52e-9)


def predict_profile(device: Hardware, workload: Workload) -> Profile:
    """Predict the profile of a network on a machine that is not here, for one picture."""
    work = zip(workload.flops, workload.moved_bytes, strict=True)
    forward_s = [layer_s(device, flops, moved_bytes) for flops, moved_bytes in work]
    backward_s = [BACKWARD * seconds for seconds in forward_s]
    return profile_of(workload, 1, (forward_s, backward_s), (device.power_w, device.power_w))


def layer_s(device: Hardware, flops: float, moved_bytes: float) -> float:
    """Seconds of one layer: its overhead, and the longer of arithmetic and memory traffic."""
    arithmetic_s, memory_s = flops / (device.peak_flops * device.efficiency), moved_bytes / device.memory_bps
    return device.layer_overhead_s + max(arithmetic_s, memory_s)
