"""Cost of storing layers at edges, moving them with clients, and keeping copies everywhere (6G, section VI-C)."""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path as Folder
from statistics import fmean
from typing import Annotated

import msgspec
import torch
from msgspec.structs import replace

from bench.experiments.common.cuts import service_problems
from bench.experiments.edge_sl import field as edge_field
from bench.experiments.edge_sl.field import STRATEGIES, FieldParameters, TrainedFieldParameters, make_field
from bench.experiments.hivemind.network.energy import FLOAT_BYTES
from bench.experiments.hivemind.network.scenario import profiles
from bench.suite.experiment import Context, Measurement, Problem, Setting
from bench.suite.parameter_types import Count, Share, WorkloadName
from nodes.model.chain import Chain
from nodes.model.checkpoint import checkpoint_path
from nodes.spec.job import Job, StageSpec
from nodes.splitting.migration import BackhaulLink, Controller, State, route_s
from nodes.splitting.placement import ServerPath, place_layers
from nodes.splitting.search import transfer_s
from nodes.training.in_process import run_in_process
from nodes.training.report import TrainingOutcome
from reports.record import Mode


class PlacementParameters(FieldParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A packaged ``workload`` in the field."""

    workload: WorkloadName = WorkloadName("resnet18-88")

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from self.field_problems(len(profiles(self.workload)["ue"].layers))


class CourseParameters(PlacementParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of every ``every`` rounds is recorded."""

    every: Count = 1


class MigrationParameters(TrainedFieldParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that one client trains."""

    clients: Count = 1

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield Problem(("access",), "only used for times of rounds; here nothing is timed", unused=True)
        if self.clients != 1:
            yield Problem(("clients",), f"got {self.clients}; give 1, since layers follow one client")
        if setting.hosts is not None and setting.mode == "live":
            yield Problem(("model",), "compares the files of all nodes' state, which hosts keep to themselves")
        layout = yield from self.checked_layout(setting)
        if layout is not None:
            yield from self.field_problems(len(layout))
            yield from service_problems(("model",), layout)


class TreeParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Edges with ``clients`` each below one metro server, and a cloud; edges and metro have equal storage."""

    workload: WorkloadName = WorkloadName("resnet18-88")
    clients: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (1, 2, 4)
    device_layers: Count = 4
    batches: Count = 20
    batch_size: Count = 16
    storage_share: Share = 0.2
    metro: BackhaulLink = BackhaulLink(200e6, 0.005)
    core: BackhaulLink = BackhaulLink(50e6, 0.01)

    def problems(self, setting: Setting) -> Iterator[Problem]:
        layers = len(profiles(self.workload)["ue"].layers)
        yield from edge_field.placement_problems(self.device_layers, layers, {"metro": self.metro, "core": self.core})


def placement(parameters: PlacementParameters, context: Context) -> Iterator[Measurement]:
    """Each strategy's means over the rounds: seconds, link traffic by kind, bytes stored at edges."""
    field = make_field(parameters, profiles(parameters.workload), context.seed)
    yield Measurement("stay_rounds", field.stay_rounds, "rounds")
    for strategy in STRATEGIES:
        rounds, case = field.run(strategy), {"strategy": strategy}
        yield Measurement("round_s", fmean(one.seconds for one in rounds), "s", case)
        yield Measurement("move_s", fmean(one.move_s for one in rounds), "s", case)
        yield Measurement("communication_mb", fmean(one.communication_bytes for one in rounds) / 1e6, "MB", case)
        for kind in rounds[0].traffic_bytes:
            mean_bytes = fmean(one.traffic_bytes[kind] for one in rounds)
            yield Measurement("link_traffic_mb", mean_bytes / 1e6, "MB", {**case, "kind": kind})
        yield Measurement("stored_mb", fmean(one.stored_bytes for one in rounds) / 1e6, "MB", case)


def course(parameters: CourseParameters, context: Context) -> Iterator[Measurement]:
    """Seconds of each strategy's rounds, one by one and accumulated."""
    field = make_field(parameters, profiles(parameters.workload), context.seed)
    for strategy in STRATEGIES:
        seconds = [one.seconds for one in field.run(strategy)]
        passed = list(accumulate(seconds))
        for number in range(0, len(seconds), parameters.every):
            case = {"strategy": strategy, "round": number + 1}
            yield Measurement("round_s", seconds[number], "s", case)
            yield Measurement("time_passed_s", passed[number], "s", case)


def migration(parameters: MigrationParameters, context: Context) -> Iterator[Measurement]:
    """One client trains a chain of device, visited edges and cloud; the controller moves layers along it.

    A chain has a fixed order, so edges without layers relay the data, and moves count over the chain's links. The same
    job without moves, in this process, must give the same losses and parameters.
    """
    chain, _, field = parameters.field(context.seed)
    held = held_bytes(chain, parameters.optimizer_states)
    model = field.model._replace(held_bytes=held[parameters.device_layers :])
    controller = Controller(field.network, model, "migrate", 1, parameters.batches, field.stay_rounds)
    states = [controller.begin(field.attached[0])]
    for attached in field.attached[1:]:
        states.append(controller.follow(states[-1], attached))
    visited = {edge for attached in field.attached for edge in attached}
    passed = tuple(edge for edge in field.network.edges if edge in visited)
    splits = [chain_splits(state, passed, parameters.device_layers) for state in states]
    moves = {parameters.batches * number: after for number, after in enumerate(splits)}
    job = parameters.job(
        context,
        chain,
        train_samples=parameters.batches * parameters.batch_size,
        test_samples=parameters.batch_size,
        nodes=("device", *passed, "cloud"),
        splits=splits[0],
        stages=(StageSpec(),) * len(splits[0]),
        epochs=parameters.rounds,  # one a round
        steps=parameters.batches,
    )
    moved, moved_state = _trained(replace(job, moves=moves, checkpoint=str(context.scratch / "moves")), context.mode)
    stayed, stayed_state = _trained(replace(job, checkpoint=str(context.scratch / "stays")), "in-process")
    before = list(accumulate(held, initial=0))
    changes = [ends for old, new in pairwise(splits) for ends in zip(old, new, strict=True)]
    counted = sum(abs(before[one] - before[other]) for one, other in changes)
    ways = [way for node in moved.nodes for way in (node.sent_uplink, node.sent_downlink)]
    sent = [way["parameters"] for way in ways if "parameters" in way]
    yield Measurement("cell_changes", sum(one != other for one, other in pairwise(field.attached)), "1")
    yield Measurement("moves", sum(one != other for one, other in pairwise(splits)), "1")
    yield Measurement("moved_bytes", sum(one.payload_bytes for one in sent), "B", {"source": "wire"})
    yield Measurement("moved_bytes", counted, "B", {"source": "controller"})
    losses = max(abs(one - other) for one, other in zip(moved.losses, stayed.losses, strict=True))
    yield Measurement("loss_difference_nats", losses, "nats")
    different = sum(not torch.equal(tensor, stayed_state[name]) for name, tensor in moved_state.items())
    yield Measurement("different_tensors", different + len(moved_state.keys() ^ stayed_state.keys()), "tensors")
    yield Measurement("tensors", len(moved_state), "tensors")


def tree(parameters: TreeParameters, context: Context) -> Iterator[Measurement]:
    """Joint placement on edges, a shared metro server and the cloud, for the least sum of all clients' rounds.

    As in the field, clients divide shared links and servers, and the edges' copies are averaged each round, here at
    the metro server. One copy there serves all edges; ``apart`` is the storage of a copy for each edge.
    """
    kept, first = profiles(parameters.workload), parameters.device_layers
    weights = [FLOAT_BYTES * count for count in kept["ue"].parameters]
    held = [2 * size for size in weights[first:]]  # with momentum
    boundary = [parameters.batch_size * size for size in kept["ue"].boundary_bytes[first:-1]] + [0]
    core_s, cloud_s = (edge_field.batch_s(kept[name], parameters.batch_size)[first:] for name in ("core", "cloud"))
    everyone = sum(parameters.clients)
    paths = []
    for edge, clients in enumerate(parameters.clients):
        batches = clients * parameters.batches
        step_s = [clients * 2 * route_s([parameters.metro], size) for size in weights[first:]]
        at_edge = [batches * clients * work + step for work, step in zip(core_s, step_s, strict=True)]
        at_metro, at_cloud = [batches * everyone * work for work in core_s], [batches * work for work in cloud_s]
        near = [batches * seconds for seconds in _both_ways_s(boundary, parameters.metro, clients)]
        far = [batches * seconds for seconds in _both_ways_s(boundary, parameters.core, everyone)]
        paths.append(ServerPath((f"edge{edge + 1}", "metro", "cloud"), [at_edge, at_metro, at_cloud], [near, far]))
    limit = parameters.storage_share * 2 * sum(weights)
    servers = {server for path in paths for server in path.servers}
    found = place_layers(paths, held, dict.fromkeys(servers, limit) | {"cloud": sum(held)})
    yield Measurement("round_s", found.cost / everyone, "s")
    for link, name in enumerate(("edge to metro", "metro to cloud")):
        cuts = [boundary[splits[link]] for splits in found.splits]
        once = sum(clients * cut for clients, cut in zip(parameters.clients, cuts, strict=True))
        sent = 2 * parameters.batches * once
        yield Measurement("smashed_mb", sent / 1e6, "MB", {"link": name})
    sizes = {server: sum(held[low:high]) for server, (low, high) in found.stored.items()}
    apart = sum(sum(held[one:other]) for one, other in found.splits)
    yield Measurement("metro_stored_mb", sizes.get("metro", 0) / 1e6, "MB", {"copies": "together"})
    yield Measurement("metro_stored_mb", apart / 1e6, "MB", {"copies": "apart"})
    edges_bytes = sum(size for server, size in sizes.items() if server.startswith("edge"))
    yield Measurement("edges_stored_mb", edges_bytes / 1e6, "MB")


def chain_splits(state: State, edges: tuple[str, ...], device_layers: int) -> tuple[int, ...]:
    """The splits of a chain of device, ``edges`` and cloud for the copy that ``state`` assigns to its one client."""
    (holder,) = state.holders
    done = device_layers + state.used[holder]
    return tuple(done if edge > edges.index(holder) else device_layers for edge in range(len(edges) + 1))


def held_bytes(chain: Chain, optimizer_states: int) -> list[int]:
    """Bytes of each layer's state: parameters, ``optimizer_states`` numbers for each, and buffers."""
    sizes = []
    for index in range(len(chain)):
        body = chain.part(index, index + 1).body
        own = sum(parameter.nbytes for parameter in body.parameters())
        sizes.append((1 + optimizer_states) * own + sum(buffer.nbytes for buffer in body.buffers()))
    return sizes


def _trained(job: Job, mode: Mode) -> tuple[TrainingOutcome, dict[str, torch.Tensor]]:
    """The outcome of ``job``, live or in this process, and all parameters and buffers by name."""
    Folder(str(job.checkpoint)).mkdir()
    if mode == "live":
        from bench.live.training import run_live  # noqa: PLC0415  (aiohttp and uvloop, which a run in process does without)

        outcome = run_live(job)
    else:
        outcome = run_in_process(job)
    state: dict[str, torch.Tensor] = {}
    for path in (checkpoint_path(job, index, job.epochs) for index in range(len(job.nodes))):
        if path.exists():
            state |= torch.load(path, weights_only=True)["modules"].get("part", {})
    return outcome, state


def _both_ways_s(boundary_bytes: list[int], link: BackhaulLink, sharing: int) -> list[float]:
    """Seconds [L+1] of a batch and its gradient over a link that ``sharing`` clients use at once."""
    sizes = [sharing * size for size in boundary_bytes]
    return transfer_s(sizes, *link, gradient_bytes=sizes)
