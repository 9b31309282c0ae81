"""Time and link traffic of training rounds whose clients move among edge servers.

Clients follow HiveMind's trajectory past its six cells from different starting points; each cell has an edge server.
Consecutive cells are joined, and each edge server to the cloud. Machines are HiveMind's; a batch takes as long as its
pictures one by one. All clients train at once; a round ends with the slowest, then copies are averaged. Layers move
before a round. Rates, delays and the duration of a round are assumptions.
"""

from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bench.experiments.common.learning import ANY_CLASSES, Learning, largest_payload, sample_of, size_of
from bench.experiments.hivemind.network.energy import FLOAT_BYTES
from bench.experiments.hivemind.network.scenario import DEVICES, Machine
from bench.suite.experiment import Context, Problem, Setting
from bench.suite.parameter_types import Count, ModelName, Positive, Share
from netem.cellular.iab import TOPOLOGIES
from netem.cellular.mobility import Trajectory, distances, serving_cells
from netem.cellular.network import HYSTERESIS_DB
from nodes.costs.devices import predict_profile
from nodes.costs.profile import Profile
from nodes.costs.workload import Inspected, inspect_chain
from nodes.model.chain import Chain
from nodes.model.factory import build_model
from nodes.spec.job import InputSpec, Job, OptimizerSpec
from nodes.splitting.migration import (
    CLOUD,
    BackhaulLink,
    Controller,
    EdgeNetwork,
    MigrationStrategy,
    Model,
    State,
    route_s,
)
from nodes.splitting.search import transfer_s

STRATEGIES: tuple[MigrationStrategy, ...] = ("stay", "migrate", "replicate")


class FieldParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clients`` with ``batches`` of ``batch_size`` a round; edges store ``storage_share`` of the model's state.

    Devices hold the first ``device_layers``. The state has ``optimizer_states`` numbers for each parameter besides it.
    """

    device_layers: Count = 4  # the stem up to its pooling
    clients: Count = 4
    batches: Count = 20
    batch_size: Count = 16
    rounds: Count = 60
    round_s: Positive = 20.0
    speed_m_per_s: Positive = 4.0
    storage_share: Share = 0.2
    optimizer_states: Annotated[int, msgspec.Meta(ge=0, le=8)] = 1
    access: BackhaulLink = BackhaulLink(200e6, 0.005)  # of a cell, shared by its clients
    lateral: BackhaulLink = BackhaulLink(200e6, 0.005)
    backhaul: BackhaulLink = BackhaulLink(50e6, 0.005)

    def field_problems(self, layers: int) -> Iterator[Problem]:
        """Problems of the field with a model of ``layers`` layers."""
        links = {"access": self.access, "lateral": self.lateral, "backhaul": self.backhaul}
        return placement_problems(self.device_layers, layers, links)


class TrainedFieldParameters(FieldParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A field whose clients train ``model`` on pictures of ``side`` pixels, or on ``input``."""

    model: ModelName = ModelName("nodes.zoo.small_cnn:small_cnn")
    side: Count = 32
    input: InputSpec | None = None
    optimizer_states: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1

    def checked_layout(self, setting: Setting) -> Generator[Problem, None, Chain | None]:
        """The network's layers; None after a problem of the model. Too few pictures for all batches are one too."""
        least, size = self.clients * self.batches * self.batch_size, size_of(setting)
        if size and size.train < least:
            why = f"{least} for {self.batches} batches of {self.batch_size} for each of {self.clients} clients"
            yield Problem(("batches",), f"{setting.dataset} has {size.train} training pictures, needed are {why}")
        return (yield from self._learning().checked_layout(setting))

    def field(self, seed: int) -> tuple[Chain, dict[Machine, Profile], "EdgeField"]:
        """The network's layers, their profile on each machine, and the field."""
        sample = sample_of(self.side, self.input)
        network = build_model(str(self.model), ANY_CLASSES, sample.shape, seed)
        work = inspect_chain(Inspected(network, sample.shape, dtype=sample.dtype))
        kept = {name: predict_profile(device, work) for name, device in DEVICES.items()}
        return Chain(network, sample.shape, dtype=sample.dtype), kept, make_field(self, kept, seed)

    def job(self, context: Context, layout: Chain, train_samples: int, test_samples: int, **rest: Any) -> Job:
        """The job of the training on one thread of the CPU."""
        learning = replace(self._learning(), train_samples=train_samples, test_samples=test_samples)
        payload_bytes = largest_payload(layout, self.batch_size, whole=True)
        return learning.job(context, layout, classes=ANY_CLASSES, device="cpu", payload_bytes=payload_bytes, **rest)

    def _learning(self) -> Learning:
        return Learning(
            model=self.model,
            optimizer=OptimizerSpec(momentum=0.9 if self.optimizer_states else 0.0),
            batch_size=self.batch_size,
            side=self.side,
            input=self.input,
            threads=1,
        )


class FieldRound(NamedTuple):
    """One round: seconds, seconds of moves among them, bytes over all links by kind, bytes stored at edges."""

    seconds: float
    move_s: float
    traffic_bytes: dict[str, int]
    stored_bytes: int

    @property
    def communication_bytes(self) -> int:
        return sum(self.traffic_bytes.values())


@dataclass(frozen=True)
class EdgeField:
    """A network, a model, and the edge of each client in each round ([rounds][clients])."""

    parameters: FieldParameters
    network: EdgeNetwork
    model: Model
    device_s: float  # a batch
    attached: list[tuple[str, ...]]

    @property
    def stay_rounds(self) -> float:
        """Mean number of rounds that a client stays at an edge, which the controller knows."""
        ways = list(zip(*self.attached, strict=True))
        stays: int = sum(1 + sum(one != other for one, other in pairwise(way)) for way in ways)
        return len(ways) * len(self.attached) / stays

    def run(self, strategy: MigrationStrategy) -> list[FieldRound]:
        """The rounds under ``strategy``."""
        asked = self.parameters
        controller = Controller(self.network, self.model, strategy, asked.clients, asked.batches, self.stay_rounds)
        state = controller.begin(self.attached[0])
        rounds = [self._round(controller, state, state, self.attached[0])]
        for attached in self.attached[1:]:
            before, state = state, controller.follow(state, attached)
            rounds.append(self._round(controller, before, state, attached))
        return rounds

    def _round(self, controller: Controller, before: State, state: State, attached: Sequence[str]) -> FieldRound:
        train_s, smashed_bytes = self._training(controller, state, attached)
        move_s: defaultdict[str, float] = defaultdict(float)
        moved_bytes = 0
        for server, layer, route in controller.arrivals(before, state):
            size = self.model.held_bytes[layer]
            move_s[server] += route_s(route, size)
            moved_bytes += len(route) * size
        averaging_s, averaging_bytes = self._averaging(controller, state) if controller.synchronised else (0.0, 0)
        slowest_move_s = max(move_s.values(), default=0.0)
        return FieldRound(
            slowest_move_s + train_s + averaging_s,
            slowest_move_s,
            {"smashed": smashed_bytes, "averaging": averaging_bytes, "moved": moved_bytes},
            sum(sum(self.model.held_bytes[:count]) for count in state.stored.values()),
        )

    def _training(self, controller: Controller, state: State, attached: Sequence[str]) -> tuple[float, int]:
        """Seconds of the slowest client; bytes of smashed data and gradients over all links."""
        asked, routes, cut_bytes = self.parameters, self.network.routes, self.model.boundary_bytes
        here, users = Counter(attached), Counter(state.holders)
        slowest_s, sent_bytes = 0.0, 0
        for (edge, holder), clients in Counter(zip(attached, state.holders, strict=True)).items():
            used = state.used[holder]
            sizes = [here[edge] * cut_bytes[0], 0]
            own_s = self.device_s + transfer_s(sizes, *asked.access, gradient_bytes=sizes)[0]
            batch_s = own_s + controller.batch_s(edge, clients, holder, used, users[holder])
            slowest_s = max(slowest_s, asked.batches * batch_s)
            sent = (1 + len(routes[edge, holder])) * cut_bytes[0] + len(routes[holder, CLOUD]) * cut_bytes[used]
            sent_bytes += asked.batches * clients * 2 * sent
        return slowest_s, sent_bytes

    def _averaging(self, controller: Controller, state: State) -> tuple[float, int]:
        """Seconds of the slowest copy; bytes of parameters: trained layers to the cloud, averaged ones back."""
        users = Counter(state.holders)
        slowest_s, sent_bytes = 0.0, 0
        for edge, count in state.stored.items():
            route = self.network.routes[edge, CLOUD]
            trained = sum(self.model.parameter_bytes[: state.used[edge]]) if users[edge] else 0
            down = sum(self.model.parameter_bytes[:count]) - (trained if users[edge] == controller.clients else 0)
            slowest_s = max(slowest_s, route_s(route, trained + down))
            sent_bytes += len(route) * (trained + down)
        return slowest_s, sent_bytes


def make_field(parameters: FieldParameters, kept: Mapping[Machine, Profile], seed: int) -> EdgeField:
    """The field of checked ``parameters`` and profiles; ``seed`` draws the starting points."""
    first = parameters.device_layers
    batch = {name: batch_s(profile, parameters.batch_size) for name, profile in kept.items()}
    counts = kept["ue"].parameters
    held = [FLOAT_BYTES * (1 + parameters.optimizer_states) * count for count in counts]
    model = Model(
        [parameters.batch_size * size for size in kept["ue"].boundary_bytes[first:-1]] + [0],
        held[first:],
        [FLOAT_BYTES * count for count in counts[first:]],
    )
    edges = edges_along_trajectory()
    links = dict.fromkeys(pairwise([*edges, edges[0]]), parameters.lateral)
    links |= {(edge, CLOUD): parameters.backhaul for edge in edges}
    layer_s = dict.fromkeys(edges, batch["core"][first:]) | {CLOUD: batch["cloud"][first:]}
    network = EdgeNetwork(edges, links, layer_s, parameters.storage_share * sum(held))
    return EdgeField(parameters, network, model, sum(batch["ue"][:first]), _attached(parameters, seed))


def placement_problems(device_layers: int, layers: int, links: Mapping[str, BackhaulLink]) -> Iterator[Problem]:
    """Problems of devices that leave no layer to place, and of links without a rate."""
    if device_layers >= layers:
        yield Problem(("device_layers",), f"{device_layers} of {layers} layers leave none to place; give fewer")
    for name, link in links.items():
        if not (link.rate_bps > 0 and link.delay_s >= 0):
            got = f"got [{link.rate_bps:g}, {link.delay_s:g}]"
            yield Problem((name,), f"{got}; give a rate above 0 bit/s and a delay of at least 0 s")


def batch_s(profile: Profile, pictures: int) -> list[float]:
    """Seconds [L] of a batch's forward and backward pass."""
    return [pictures * (one + other) for one, other in zip(profile.forward_s, profile.backward_s, strict=True)]


def _attached(parameters: FieldParameters, seed: int) -> list[tuple[str, ...]]:
    """The edge of each client in each round."""
    way = Trajectory(TOPOLOGIES["mmwave"].trajectory.corners, parameters.speed_m_per_s)
    lead_s = np.random.default_rng(seed).random(parameters.clients) * way.length_m / way.speed_m_per_s
    times_s = np.arange(parameters.rounds) * parameters.round_s
    return list(zip(*(_serving(way, times_s + lead) for lead in lead_s), strict=True))


def _serving(way: Trajectory, times_s: NDArray[np.float64]) -> list[str]:
    """The cell that serves a client on trajectory ``way`` at each of ``times_s``."""
    topology = TOPOLOGIES["mmwave"]
    sites = np.array([cell.site for cell in topology.cells])
    snr_db = topology.carrier.snr_db(distances(way.positions(times_s), sites))
    return [topology.cells[cell].name for cell in serving_cells(snr_db, HYSTERESIS_DB)]


@cache
def edges_along_trajectory() -> tuple[str, ...]:
    """The cells in the order in which the trajectory passes them."""
    way = TOPOLOGIES["mmwave"].trajectory
    return tuple(dict.fromkeys(_serving(way, np.arange(0.0, way.length_m / way.speed_m_per_s, 1.0))))
