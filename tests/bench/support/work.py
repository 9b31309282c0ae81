"""The work that an experiment asks for, recorded where it would train, run processes or measure time."""

import importlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.experiments import MODULES
from bench.live.link_calibration import CalibrationRow
from bench.suite.experiment import Context, Measurement
from nodes.costs.devices import RTX_2080_PC, predict_profile
from nodes.costs.workload import Inspected, inspect_chain
from nodes.data.images import Dataset
from nodes.federated.in_process import FederationOutcome, RoundOutcome
from nodes.runtime.report import NodeReport
from nodes.training.report import TrainingOutcome
from nodes.training.segment import Segment
from nodes.wire.byte_counter import Traffic
from nodes.wire.messages import TaskReport

E = "bench.experiments"
TRAININGS = (
    "general.pipeline",
    "deprune.experiments",
    "deprune.traffic",
    "common.two_node_training",
    "edge_sl.placement",
)


REPORTED = (
    *(
        "train_accuracy",
        "loss",
        "train_up_bytes",
        "train_down_bytes",
        "trained_samples",
        "tested_samples",
        "test_s",
        "train_s",
    ),
    *("sent_bytes", "link0.budget", "link0.same", "link0.code_bytes", "link0.path0"),
    *("member1.accuracy", "member2.accuracy"),
)


class Ones(dict):
    """Metrics of a round, of which each is 1 unless it is given."""

    def __missing__(self, name: str) -> float:
        return 1.0


class Recorder:
    """Stands for what trains, runs processes or measures time, and keeps what it was asked for."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.asked: list[Any] = []

    def keep(self, *what: object) -> None:
        self.asked.append(tuple(map(self._plain, what)))

    def _plain(self, value: object) -> object:
        if isinstance(value, Dataset):
            return len(value.train), len(value.test), value.train.images.shape[1:]
        return "" if callable(value) else repr(value).replace(str(self.scratch), "SCRATCH")

    def train(self, job: Any, *rest: Any, say: Any = None, manage: Any = None, **named: Any) -> TrainingOutcome:
        self.keep("train", job, *rest, named)
        if job.checkpoint:
            Path(job.checkpoint).mkdir(parents=True, exist_ok=True)
        sent = {"next": {"activation": Traffic()}, "previous": {"gradient": Traffic()}}
        nodes = [NodeReport(name=name, sent=sent, total_s=1.0) for name in job.nodes]
        numbers = [number + 1.0 for number in range(job.epochs + len(job.members))]
        epochs = [
            dict.fromkeys(REPORTED, 1.0) | {"epoch": one, "test_accuracy": 0.9 - 1 / (one + 2)} for one in numbers
        ]
        sources = job.sources
        return TrainingOutcome(
            dataset="digits",
            epochs=epochs,
            losses=[1.0],
            step_s=[1.0, 1.0] * sources,
            latency_s=[1.0, 1.0],
            nodes=nodes,
        )

    def federate(self, federation: Any, *rest: Any, **named: Any) -> FederationOutcome:
        self.keep("federate", federation, *rest, named)
        rounds = [
            RoundOutcome(round=number, edge=0, metrics=Ones(began=0.0), correct_by_class=[1.0], total_by_class=[1.0])
            for number in range(federation.rounds)
        ]
        sent = {"next": {"activation": Traffic(1, 1, 1)}}
        return FederationOutcome(
            rounds=rounds, nodes=[NodeReport(name=name, sent=sent) for name in ("client1", "edge1")]
        )

    def serve(self, setup: Any, play: Any, **named: Any) -> Any:
        self.keep("serve", setup, named)
        turn = play(_Service(self))
        try:
            turn.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a script waits for what nothing stands for")

    def profile(self, model: Any, shape: Any, *rest: Any, **named: Any) -> Any:
        self.keep("profile", type(model), shape, rest, {name: named[name] for name in named if name != "joules"})
        return predict_profile(RTX_2080_PC, inspect_chain(Inspected(model, shape)))

    async def rows(self, asked: Any, *rest: Any, **named: Any) -> list[Any]:
        self.keep("rows", asked, rest, named)
        fields = {field.name: 1.0 for field in msgspec.structs.fields(CalibrationRow)}
        return [CalibrationRow(**fields | {"link": "", "direction": "", "late_s": {}}) for _ in asked]

    def then(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, which is called once what it is given has been kept."""

        def called(*given: Any, **named: Any) -> Any:
            self.keep(name, *given)
            return function(*given, **named)

        return called

    async def hops(self, setup: Any, warmup: int, context: Context) -> dict[int, dict[str, list[float]]]:
        self.keep("hops", setup.loop, setup.plan, warmup)
        return {size: {way: [1.0] for way in ("splitmec", "raw", "gloo", "pickle")} for size, _ in setup.plan}

    def seconds(self, run: Callable[[], object]) -> float:
        self.keep("seconds", run())
        return 1.0


class _Service:
    """A live service whose tasks are done at once."""

    def __init__(self, recorder: Recorder) -> None:
        self.tasks: list[TaskReport] = []
        self.uncalibrated: list[str] = []
        self.reports: dict[str, NodeReport] = {}
        self._keep = recorder.keep

    async def join(self, *names: str) -> None:
        self._keep("join", *names)
        self.reports |= {name: NodeReport(name=name, sent={"previous": {"sci": Traffic(1, 1, 1)}}) for name in names}

    def kill(self, name: str) -> None:
        self._keep("kill", name)

    async def until_tasks(self, count: int) -> None:
        self._keep("until_tasks", count)
        times = {"predicted_s": 1.0, "began_s": 0.0, "ended_s": 1.0, "returned_s": 1.0}
        self.tasks += [TaskReport(step=step, splits={"ue": 1}, **times) for step in range(len(self.tasks), count)]

    async def update(self, last: str) -> float:
        self._keep("update", last)
        return 1.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*given: object) -> None:
            self._keep(name, *given)

        return call


@contextmanager
def _busy(recorder: Recorder, count: int) -> Iterator[None]:
    recorder.keep("busy", count)
    yield


def work_of(run: str, parameters: msgspec.Struct, context: Context) -> tuple[list[Any], list[Measurement]]:
    """What experiment ``run`` asks for with ``parameters``, with the values that follow; and all measurements."""
    shutil.rmtree(context.scratch, ignore_errors=True)
    context.scratch.mkdir(parents=True)
    recorder = Recorder(context.scratch)
    file, _, name = run.rpartition(".")
    with pytest.MonkeyPatch.context() as patch:
        _stand_in(patch, recorder)
        function = getattr(importlib.import_module(f"{E}.{MODULES[file]}"), name)
        found = list(function(parameters, context))
    return [*recorder.asked, *((one.metric, one.value) for one in found if one.metric != "cpu_s")], found


def _stand_in(patch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    for module in TRAININGS:
        patch.setattr(f"{E}.{module}.run_in_process", recorder.train)
    for module in ("schemes", "migration"):
        for name in ("run_in_process", "run_in_virtual_time"):
            patch.setattr(f"{E}.edge_sl.{module}.{name}", recorder.federate)
    patch.setattr(f"{E}.edge_sl.migration._differences", lambda *_: iter(()))
    patch.setattr("bench.live.training.run_live", recorder.train)
    patch.setattr("bench.live.federated.run_live", recorder.federate)
    restored = lambda job: [Segment(job, index) for index in range(len(job.nodes))]  # noqa: E731
    patch.setattr(f"{E}.common.two_node_training.restored", restored)
    patch.setattr(f"{E}.hivemind.live_route.run_service", recorder.serve)
    for module in ("hivemind.live_route", "hivemind.profiles", "edge_sl.privacy"):
        patch.setattr(f"{E}.{module}.measure_profile", recorder.profile)
    patch.setattr(f"{E}.hivemind.profiles.rapl_counter", lambda: None)
    patch.setattr(f"{E}.hivemind.profiles.constant_power", lambda watts, clock: recorder.keep("power", watts))
    patch.setattr(f"{E}.hivemind.solver.seconds", recorder.seconds)
    patch.setattr(f"{E}.general.pipeline.run_in_virtual_time", recorder.train)
    parts = importlib.import_module(f"{E}.hivemind.learning_agents")._in_parts
    patch.setattr(f"{E}.hivemind.learning_agents._in_parts", recorder.then("parts", parts))
    patch.setattr(f"{E}.general.transport._measure", recorder.hops)
    patch.setattr(f"{E}.general.links.rows", recorder.rows)
    patch.setattr(f"{E}.general.links.computing", lambda count: _busy(recorder, count))
