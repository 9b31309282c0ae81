"""Throughput with deprune's module and without on the paper's two testbeds, in virtual time (section 4.1).

The paper names processors, but neither the rate of its Wi-Fi nor that of its Ethernet, on which the gain depends. So
the gain is given by rate, with processors at their peak: what is slower on them only brings it closer to one.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from msgspec.structs import replace

from bench.experiments.common.learning import TRAINING, layers_of
from bench.experiments.deprune.experiments import VggTraining, make_job, pruned
from bench.suite.experiment import Context, Measurement, Problem, Setting
from bench.suite.parameter_types import Positive, PositiveShare
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.costs.devices import BACKWARD
from nodes.costs.workload import Workload, inspect_chain
from nodes.spec.job import StageSpec, Timing
from nodes.stages.bottleneck import Geometry
from nodes.stages.deprune.budget import BudgetPhase, map_budget
from nodes.training.in_process import run_in_virtual_time
from nodes.zoo.vgg import layers_before

STEPS = 3  # the first fills the pipeline; all later ones take as long
UPDATE_BYTES = 12  # a parameter of SGD: weight and gradient are read, the weight is written, in float32


class Processor(NamedTuple):
    """Peak float32 operations and bytes of memory a second, by the maker's data sheet."""

    flops: float
    memory_bps: float


class Testbed(NamedTuple):
    """One of the paper's testbeds: its sources and server, and the delay of its link in one direction."""

    sources: int
    source: Processor
    server: Processor
    delay_s: float


LAPTOP_SHARE = 0.4  # of one core at 1.6 GHz, two 256-bit product-sums a cycle
TESTBEDS = {
    # An embedded GPU of 22 TOPS in INT8 is Jetson AGX Xavier's: 512 lanes at 1.377 GHz, LPDDR4X with 256 bits.
    "wifi": Testbed(8, Processor(LAPTOP_SHARE * 51.2e9, LAPTOP_SHARE * 20e9), Processor(1.41e12, 137e9), 1e-3),
    # RTX 3090 and RTX 4090; half of the round trip of 0.67 ms.
    "ethernet": Testbed(1, Processor(35.6e12, 936e9), Processor(82.6e12, 1008e9), 0.335e-3),
}


class NamedDevices(VggTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some steps on a ``testbed``, whose sources share each of ``rates_bps`` alike, with ``share`` of the maps."""

    testbed: Literal["wifi", "ethernet"] = "wifi"
    rates_bps: tuple[Positive, ...] = (1e9,)
    share: PositiveShare = 1 / 32

    @property
    def least(self) -> tuple[int, str]:
        sources = TESTBEDS[self.testbed].sources
        return sources * self.batch_size * STEPS, f"{STEPS} batches for each of {sources} sources"

    @property
    def with_pictures(self) -> "NamedDevices":
        """These with as many blank pictures as the steps need."""
        return replace(self, train_samples=self.least[0], test_samples=TESTBEDS[self.testbed].sources)

    def problems(self, setting: Setting) -> Iterator[Problem]:
        if setting.dataset != "none":
            yield Problem(("dataset",), f"got {setting.dataset}; nothing is computed, give dataset: none")
        for name in (*TRAINING, "threads", "train_samples", "test_samples"):
            yield Problem((name,), "not used: nothing is computed", unused=True)
        yield from super(NamedDevices, self.with_pictures).problems(setting)


def named_devices(parameters: NamedDevices, context: Context) -> Iterator[Measurement]:
    """Samples a second of all sources with the module and without, and the gain, by the rate of the shared link."""
    for rate_bps in parameters.rates_bps:
        with_module, without = (samples_per_s(parameters, context, rate_bps, module) for module in (True, False))
        for module, rate in ((True, with_module), (False, without)):
            yield Measurement("all_samples_per_s", rate, "samples/s", {"rate_bps": rate_bps, "module": module})
        yield Measurement("most_speedup", with_module / without, "1", {"rate_bps": rate_bps})


def samples_per_s(parameters: NamedDevices, context: Context, rate_bps: float, module: bool) -> float:
    """Throughput of all sources after the first step; without the module all maps cross."""
    testbed, phases = TESTBEDS[parameters.testbed], [BudgetPhase(1, parameters.share)]
    stage = pruned(phases, resolution=parameters.resolution) if module else StageSpec()
    job = make_job(parameters.with_pictures, context, stage, phases)
    job = replace(job, sources=testbed.sources, steps=STEPS)
    link = LinkProfile(rate_bps=rate_bps / testbed.sources, delay_s=testbed.delay_s)
    source, server = timings(parameters, testbed, module)
    outcome = run_in_virtual_time(
        job, [source] * testbed.sources + [server], [Duplex(up=link, down=link)] * testbed.sources
    )
    each = len(outcome.step_s) // testbed.sources
    later_s = [step for number, step in enumerate(outcome.step_s) if number % each]
    return testbed.sources * parameters.batch_size * len(later_s) / sum(later_s)


def timings(parameters: NamedDevices, testbed: Testbed, module: bool) -> tuple[Timing, Timing]:
    """A source's and the server's seconds of a batch. The coders' work is that of section 3.4, half on each side."""
    layout = layers_of(str(parameters.model), 10, parameters.sample)
    done, work = layers_before(parameters.cut), inspect_chain(layout)
    ((_, boundary),) = layout.shapes(done).items()
    maps, height, width = boundary.shape[1:]
    window = Geometry(2 + parameters.resolution, parameters.resolution, parameters.resolution)
    pixels = window.code_side(height) * window.code_side(width)
    extra = 2.0 * map_budget(parameters.share, maps) * maps * window.kernel**2 * pixels if module else 0.0
    parts = (testbed.source, slice(0, done)), (testbed.server, slice(done, None))
    one, other = (timing(processor, work, part, extra, parameters.batch_size) for processor, part in parts)
    return one, other


def timing(processor: Processor, work: Workload, part: slice, extra: float, pictures: int) -> Timing:
    """Seconds of a batch in ``part`` of the layers, with ``extra`` operations a picture, at the processor's peak."""
    forward_s = pictures * (sum(work.flops[part]) + extra) / processor.flops
    update_s = UPDATE_BYTES * sum(work.parameters[part]) / processor.memory_bps
    return Timing(forward_s=forward_s, backward_s=BACKWARD * forward_s + update_s)
