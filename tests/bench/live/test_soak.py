"""Long runs of real processes: memory and descriptors stay as they are after the first tenth."""

from collections.abc import Mapping

import psutil
import pytest
from jobs import small_job
from promises import see

from bench.live.inference import LiveService, ServiceSetup, run_service
from bench.live.training import run_live
from netem.profiles import Duplex
from nodes.inference.frames import frames_of_model
from nodes.spec.job import DataSpec
from nodes.spec.policy import LinkSpec, Policy
from nodes.spec.service import Pace, Service

TASKS, STEPS = 100_000, 10_000
NAMES = ("ue", "mec1", "mec2", "mec3", "cloud")
SHAPE = (3, 16, 16)
MORE_MB = 8.0  # between a tenth and the end: less than 100 bytes a task, or 1 kB a step
AT = (0.1, 0.5, 1.0)

pytestmark = [pytest.mark.nightly]


class Watched:
    """Resident memory and open descriptors of processes by name, as they were at the shares of ``AT``."""

    def __init__(self) -> None:
        self.memory_mb: dict[str, list[float]] = {}
        self.descriptors: dict[str, list[int]] = {}

    def look(self, pids: Mapping[str, int]) -> None:
        for name, pid in pids.items():
            process = psutil.Process(pid)
            self.memory_mb.setdefault(name, []).append(process.memory_info().rss / 2**20)
            self.descriptors.setdefault(name, []).append(process.num_fds())

    def assert_flat(self) -> None:
        for name, memory_mb in self.memory_mb.items():
            see(f"{name}: {', '.join(f'{mb:.0f}' for mb in memory_mb)} MB, {self.descriptors[name]} descriptors")
        for name, (begin, _, end) in self.memory_mb.items():
            assert end - begin < MORE_MB, (name, self.memory_mb)
            assert len(set(self.descriptors[name])) == 1, self.descriptors


def test_a_service_of_many_tasks_is_flat() -> None:
    model = "nodes.zoo.small_cnn:small_cnn"
    layers = len(frames_of_model(model, 10, SHAPE)) - 1
    pace = Pace(tasks=TASKS + 1000)  # so that all nodes live at the last look
    kind = {"model": model, "input_shape": SHAPE, "classes": 10, "paced": False, "threads": 1}
    pairs = [(upper, lower) for number, upper in enumerate(NAMES) for lower in NAMES[number + 1 :]]
    setup = ServiceSetup(
        service=Service(**kind, pace=pace, policy=Policy(period_s=1.0), data=DataSpec(test_samples=8)),
        layer_s={name: [0.01 / (1 + number)] * layers for number, name in enumerate(NAMES)},
        links={pair: Duplex() for pair in pairs},
        known={pair: LinkSpec(rate_bps=80e6, delay_s=0.001) for pair in pairs},
    )
    watched = Watched()

    async def script(live: LiveService) -> None:
        await live.join(*NAMES)
        await live.set_route(*NAMES)
        await live.begin()
        for share in AT:
            await live.until_tasks(int(share * TASKS))
            watched.look(live.pids)
        assert len(live.split_points) > len(AT)
        assert live.tasks[-1].splits.keys() >= {"ue", "mec1", "mec2", "mec3"}

    run_service(setup, script, shaping="none", self_test="skip")
    watched.assert_flat()


def test_a_training_of_many_steps_is_flat() -> None:
    epochs = 100
    data = DataSpec(train_samples=2 * STEPS // epochs, test_samples=2)
    job = small_job(3, 6, input_shape=SHAPE, data=data, batch_size=2, epochs=epochs + 1)
    watched = Watched()

    def look(metrics: Mapping[str, float]) -> None:
        if metrics["epoch"] in [share * epochs for share in AT]:
            own = psutil.Process()
            pids = {p.name(): p.pid for p in own.children(recursive=True) if p.name() in job.nodes}
            watched.look({**pids, "runner": own.pid})

    outcome = run_live(job, say=look, shaping="none", self_test="skip")
    assert len(outcome.losses) == STEPS + STEPS // epochs
    watched.assert_flat()
