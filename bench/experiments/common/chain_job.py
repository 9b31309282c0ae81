"""Parameters of a chain of nodes, their checks against the model, and the training job that they describe."""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from bench.experiments.common.learning import Learning, weights_of, weights_problems
from bench.suite.experiment import Context, Problem, Setting
from bench.suite.parameter_types import Count, CountOrZero, Stages, check_stage, stage_specs
from netem.profiles import Duplex, LinkName, duplex
from netem.trace import TraceError
from netem.trace_schedule import schedules
from nodes.errors import ModelError
from nodes.imports import did_you_mean
from nodes.model.chain import Chain
from nodes.model.layer_range import layer_range
from nodes.spec.job import Device, Job, StageSpec
from nodes.stages.builtin import build_stage
from reports.record import Mode


class ChainParameters(Learning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain of UE, MEC servers and cloud, and its training.

    ``link`` joins the UE to the first server, ``backhaul`` each further pair. ``splits`` are the layers done when
    leaving each node; by default layers are divided equally. ``stage`` acts at every link, or is a list with one stage
    a link. ``rounds`` repeats the run, with ``unsplit`` alternating with the unsplit model, so that both meet the same
    load of the machine. ``devices`` are the nodes, by name, that are slower than this machine; in virtual time every
    node needs the timing of its device. ``time_dilation`` slows a live run down (``bench.live.time_dilation``).
    ``weights`` are the initial ones, see ``weights_of``.
    """

    nodes: Count = 3
    splits: list[int] | None = None
    stage: Stages = "identity"
    link: LinkName | Duplex = "unlimited"
    backhaul: LinkName | Duplex = "unlimited"
    epochs: CountOrZero = 1  # 0: inference alone
    steps: Count | None = None
    microbatches: Count = 1
    window: Count = 4
    weights: str | None = None
    unsplit: bool = False
    rounds: Count = 1
    devices: dict[str, Device] = msgspec.field(default_factory=dict)
    time_dilation: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 1.0

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from self._mode_problems(setting.mode)
        yield from self._node_problems()
        yield from weights_problems(self.weights, str(self.model))
        if self.batch_size % self.microbatches:
            yield Problem(("microbatches",), f"{self.microbatches} do not divide a batch of {self.batch_size}")
        if self.splits is not None and len(self.splits) != self.nodes - 1:
            yield Problem(("splits",), f"{self.nodes} nodes need {self.nodes - 1} splits, got {len(self.splits)}")
            return
        try:
            stages = stage_specs(self.stage, self.nodes - 1)
        except ValueError as error:
            yield Problem(("stage",), str(error))
            return
        try:
            layout = self.layout()
        except ModelError as error:
            yield Problem(("model",), str(error))
            return
        try:
            _check_splits(layout, self.splits_of(layout))
        except ModelError as error:
            yield Problem(("splits",), str(error))
            return
        for link, message in _stage_problems(layout, self.splits_of(layout), stages):
            yield Problem(("stage", link) if isinstance(self.stage, list) else ("stage",), message)

    def _mode_problems(self, mode: Mode) -> Iterator[Problem]:
        """Parameters that ``mode`` needs and that are missing, or that it does not use."""
        if mode != "live" and self.time_dilation != 1:
            yield Problem(("time_dilation",), f"only a live run can be dilated; this one is {mode}")
        if mode == "virtual":
            if self.weights is not None:
                yield Problem(("weights",), "in virtual time nothing is computed, so weights are unused")
            for name in node_names(self.nodes):
                if name not in self.devices:
                    yield Problem(("devices",), f"in virtual time {name} needs a device with a timing")
                elif self.devices[name].timing is None:
                    yield Problem(("devices", name), "in virtual time a device needs a timing")

    def _node_problems(self) -> Iterator[Problem]:
        """Devices without a node, and links with unreadable traces."""
        names = node_names(self.nodes)
        for name in self.devices.keys() - set(names):
            yield Problem(("devices", name), f"no node {name!r}{did_you_mean(name, names)}")
        for key, link in (("link", self.link), ("backhaul", self.backhaul)):
            if duplex(link).time_dilation != 1:
                message = "a run is dilated as a whole: give time_dilation beside the links"
                yield Problem((key, "time_dilation"), message)
            try:
                schedules(duplex(link))
            except TraceError as error:
                yield Problem((key, "trace"), str(error))

    @property
    def links(self) -> list[Duplex]:
        """The links from the UE on, without time dilation."""
        return [duplex(self.link), *[duplex(self.backhaul)] * (self.nodes - 2)][: self.nodes - 1]

    def splits_of(self, layout: Chain) -> tuple[int, ...]:
        """Layers done when leaving each node but the last."""
        if self.splits is not None:
            return tuple(self.splits)
        return tuple(round(len(layout) * (p + 1) / self.nodes) for p in range(self.nodes - 1))


def _check_splits(layout: Chain, splits: tuple[int, ...]) -> None:
    """Raise ModelError if the model cannot be cut at ``splits``."""
    for index in range(len(splits) + 1):
        where = layer_range(splits, index, len(layout))
        if where.start < where.stop:
            layout.check_part(where.start, where.stop)


def _stage_problems(layout: Chain, splits: tuple[int, ...], stages: tuple[StageSpec, ...]) -> Iterator[tuple[int, str]]:
    """(link, message) of each stage that cannot be built for the boundary at its link."""
    acts_on = {
        where.outbound: where.stop
        for where in (layer_range(splits, index, len(layout)) for index in range(len(splits) + 1))
        if where.outbound is not None
    }
    for link, spec in enumerate(stages):
        try:
            check_stage(spec.name)
            if link in acts_on:
                build_stage(spec, layout.shapes(acts_on[link]))
        except ValueError as error:
            yield link, str(error)


def make_job(parameters: ChainParameters, context: Context) -> tuple[Job, int]:
    """The job of ``parameters`` and the model's number of layers. Raises ModelError, DataError or ValueError."""
    names = node_names(parameters.nodes)
    classes = parameters.classes(context)
    layout = parameters.layout(classes)
    job = parameters.job(
        context,
        layout,
        classes=classes,
        nodes=names,
        splits=parameters.splits_of(layout),
        stages=stage_specs(parameters.stage, parameters.nodes - 1),
        epochs=parameters.epochs,
        steps=parameters.steps,
        microbatches=parameters.microbatches,
        window=parameters.window,
        devices=tuple(parameters.devices.get(name, Device()) for name in names) if parameters.devices else (),
        weights=weights_of(parameters.weights, str(parameters.model), layout),
    )
    return job, len(layout)


def node_names(count: int) -> tuple[str, ...]:
    """``ue``, the MEC servers in order, ``cloud``; ``ue`` alone for one node."""
    if count <= 2:
        return ("ue", "cloud")[:count]
    servers = [f"mec{number}" for number in range(1, count - 1)] if count > 3 else ["mec"]
    return ("ue", *servers, "cloud")
