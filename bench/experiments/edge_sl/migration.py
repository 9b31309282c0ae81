"""Cost of clients that change their edge server while a federation trains: each client's copy follows it.

Clients move past the field's cells. A controller decides, by storage and by the cost over a client's stay, when the
client's copy of the server part (SFL v1) moves to the client's edge server, where the client then trains. Copies
travel from edge to cloud to edge. The same training without moves is run for comparison. Split Learning in 6G Edge
Networks, section VI-C, leaves all of this open.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from msgspec.structs import replace

from bench.experiments.common.cuts import cut_problems
from bench.experiments.common.trained_pictures import of_rounds
from bench.experiments.edge_sl.field import EdgeField, TrainedFieldParameters, edges_along_trajectory
from bench.experiments.edge_sl.placement import held_bytes
from bench.experiments.hivemind.network.energy import FLOAT_BYTES
from bench.experiments.hivemind.network.scenario import Machine
from bench.suite.experiment import Context, Measurement, Problem, Setting
from bench.suite.parameter_types import Count, Positive
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.costs.profile import Profile
from nodes.data.loading import load_data
from nodes.federated.in_process import FederationOutcome, run_in_process, run_in_virtual_time
from nodes.spec.federation import ClientMove, Federation, SchemeSpec
from nodes.spec.job import Job, StageSpec, Timing
from nodes.splitting.migration import CLOUD, BackhaulLink, Controller, State, follow_separate_copies
from reports.record import CaseValue

KINDS = {
    **dict.fromkeys(("activation", "gradient"), "smashed"),
    **dict.fromkeys(("client-update", "client-model", "edge-update", "global-model"), "averaging"),
    "handover": "moved",
}


class RoamingParameters(TrainedFieldParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that clients train in process; on a virtual clock only shapes are computed.

    Edges store as many copies of the layers after the devices' as fit. The data of a client with its copy at another
    edge uses the client's own link only.
    """

    storage_share: Positive = 1.0
    test_samples: Count = 200

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield Problem(("lateral",), "not used: copies travel from edge to cloud to edge", unused=True)
        if setting.mode == "in-process":
            yield Problem(("access",), "only used in mode virtual; this one is in-process", unused=True)
        if setting.mode == "virtual":
            yield Problem(("test_samples",), "not used in mode virtual, where nothing is learned", unused=True)
        layout = yield from self.checked_layout(setting)
        problems = list(self.field_problems(len(layout))) if layout else []
        yield from problems
        if layout is None or problems:
            return
        yield from cut_problems(("device_layers",), layout, self.device_layers)
        held = held_bytes(layout, self.optimizer_states)
        copy_bytes, edges = sum(held[self.device_layers :]), len(edges_along_trajectory())
        weights = sum(FLOAT_BYTES * tensor.numel() for tensor in layout.model.parameters())
        room = int(self.storage_share * (1 + self.optimizer_states) * weights // copy_bytes)
        if edges * room < self.clients:
            stored = f"{edges} edges store {room} copies of {copy_bytes} B each"
            yield Problem(("storage_share",), f"{stored}, too few for {self.clients} clients")


def roaming(parameters: RoamingParameters, context: Context) -> Iterator[Measurement]:
    """Train with moving and with staying clients; traffic by kind, and the differences between the two."""
    chain, kept, field = parameters.field(context.seed)
    states, predicted = decided(field, held_bytes(chain, parameters.optimizer_states)[parameters.device_layers :])
    holders = [[state.holders[0] for state in one] for one in states]
    job = parameters.job(
        context,
        chain,
        train_samples=parameters.clients * parameters.batches * parameters.batch_size,
        test_samples=parameters.test_samples,
        nodes=("client", "edge"),
        splits=(parameters.device_layers,),
        stages=(StageSpec(),),
    )
    data = load_data(job)
    outcomes: dict[str, FederationOutcome] = {}
    for name, places in (("moving", holders), ("staying", holders[:1] * len(holders))):
        federation = _federation(parameters, job, places, kept)
        if context.mode == "in-process":
            outcomes[name] = run_in_process(replace(federation, folder=str(context.scratch / name)), data)
        else:
            links = dict.fromkeys(federation.client_names, _duplex(parameters.access))
            links |= dict.fromkeys(federation.edge_names, _duplex(parameters.backhaul))
            outcomes[name] = run_in_virtual_time(replace(federation, test_every=0), links, data, learn=False)
    yield Measurement("cell_changes", _changes(field.attached), "1")
    yield Measurement("moves", _changes(holders), "1")
    yield Measurement("moved_bytes", predicted, "B", {"source": "controller"})
    sent = [way["handover"] for node in outcomes["moving"].nodes for way in node.sent.values() if "handover" in way]
    yield Measurement("moved_bytes", sum(one.payload_bytes for one in sent), "B", {"source": "wire"})
    for name, outcome in outcomes.items():
        yield from _traffic(outcome, parameters.rounds, {"movement": name})
        if context.mode == "virtual":
            yield _round(outcome, parameters.rounds, {"movement": name})
        elif context.dataset != "none":  # on blank pictures answers are correct by chance
            yield of_rounds((one.metrics for one in outcome.rounds), {"movement": name})
            yield _accuracy(outcome, {"movement": name})
    if context.mode == "in-process":
        yield from _differences(outcomes["moving"], outcomes["staying"], context.scratch)


def decided(field: EdgeField, held: Sequence[int]) -> tuple[list[list[State]], int]:
    """The edge of each client's copy in each round, and the bytes of all moves, for layers of ``held`` bytes."""
    asked = field.parameters
    model = field.model._replace(held_bytes=held)
    star = dataclasses.replace(
        field.network, links={ends: link for ends, link in field.network.links.items() if CLOUD in ends}
    )
    states = follow_separate_copies(star, model, asked.batches, field.stay_rounds, field.attached)
    controller = Controller(star, model, "migrate", 1, asked.batches, field.stay_rounds)
    moved_bytes = 0
    for before, after in pairwise(states):
        for one, other in zip(before, after, strict=True):
            moved_bytes += sum(len(route) * held[layer] for _, layer, route in controller.arrivals(one, other))
    return states, moved_bytes


def federation_moves(places: Sequence[Sequence[str]]) -> tuple[list[str], tuple[ClientMove, ...]]:
    """The edges in ``places`` [rounds][clients], and the moves of clients among them."""
    edges = sorted({edge for one in places for edge in one})
    clients = len(places[0])
    at = [edges[client * len(edges) // clients] for client in range(clients)]  # the default assignment
    moves = []
    for number, now in enumerate(places):
        for client, edge in enumerate(now):
            if edge != at[client]:
                moves.append(ClientMove(client, number, edges.index(edge)))
        at = list(now)
    return edges, tuple(moves)


def _federation(
    parameters: RoamingParameters, job: Job, places: Sequence[Sequence[str]], kept: Mapping[Machine, Profile]
) -> Federation:
    edges, moves = federation_moves(places)
    first = parameters.device_layers
    return Federation(
        job=job,
        scheme=SchemeSpec(name="sflv1"),
        clients=parameters.clients,
        edges=len(edges),
        rounds=parameters.rounds,
        local_steps=parameters.batches,
        test_every=parameters.rounds,
        client_timing=_timing(kept["ue"], slice(first), parameters.batch_size),
        server_timing=_timing(kept["core"], slice(first, None), parameters.batch_size),
        moves=moves,
    )


def _timing(profile: Profile, layers: slice, pictures: int) -> Timing:
    forward_s, backward_s = (pictures * sum(seconds[layers]) for seconds in (profile.forward_s, profile.backward_s))
    return Timing(forward_s=forward_s, backward_s=backward_s)


def _duplex(link: BackhaulLink) -> Duplex:
    way = LinkProfile(rate_bps=link.rate_bps, delay_s=link.delay_s)
    return Duplex(up=way, down=way)


def _changes(places: Sequence[Sequence[str]]) -> int:
    return sum(one != other for now, then in pairwise(places) for one, other in zip(now, then, strict=True))


def _traffic(outcome: FederationOutcome, rounds: int, case: dict[str, CaseValue]) -> Iterator[Measurement]:
    """Traffic of a round by kind, over all links."""
    sent: Counter[str] = Counter()
    for node in outcome.nodes:
        for kinds in node.sent.values():
            for kind, traffic in kinds.items():
                sent[KINDS.get(kind, "control")] += traffic.header_bytes + traffic.payload_bytes
    for kind in ("smashed", "averaging", "moved", "control"):
        yield Measurement("link_traffic_mb", sent[kind] / rounds / 1e6, "MB", {**case, "kind": kind})
    yield Measurement("moved_share", sent["moved"] / sent.total(), "fraction", case)


def _round(outcome: FederationOutcome, rounds: int, case: dict[str, CaseValue]) -> Measurement:
    """Mean duration of a round."""
    began = min(one.metrics["began"] for one in outcome.rounds)
    ended = max(one.metrics["ended"] for one in outcome.rounds)
    return Measurement("round_s", (ended - began) / rounds, "s", case)


def _accuracy(outcome: FederationOutcome, case: dict[str, CaseValue]) -> Measurement:
    """Accuracy over all clients' tests, which follow the last round."""
    correct = sum(sum(one.correct_by_class) for one in outcome.rounds)
    total = sum(sum(one.total_by_class) for one in outcome.rounds)
    return Measurement("final_accuracy", correct / total, "fraction", case)


def _differences(moving: FederationOutcome, staying: FederationOutcome, folder: Path) -> Iterator[Measurement]:
    """Differences of losses and of kept tensors with and without moves. Raises ValueError without tensors."""
    one, other = _losses(moving), _losses(staying)
    yield Measurement("loss_difference_nats", max(abs(one[number] - other[number]) for number in other), "nats")
    ours, theirs = _all_kept(folder / "moving"), _all_kept(folder / "staying")
    if not ours or ours.keys() != theirs.keys():
        unshared = sorted(ours.keys() ^ theirs.keys())[:3]
        raise ValueError(f"cannot compare {len(ours)} tensors: only one side has {unshared}")
    yield Measurement("different_tensors", sum(not torch.equal(ours[name], theirs[name]) for name in ours), "tensors")
    yield Measurement("tensors", len(ours), "tensors")


def _losses(outcome: FederationOutcome) -> dict[int, float]:
    """Mean loss of a step, by round."""
    numbers = {one.round for one in outcome.rounds}
    rounds = {number: [one.metrics for one in outcome.rounds if one.round == number] for number in numbers}
    return {
        number: sum(metrics["loss"] for metrics in of_round) / sum(metrics["steps_with_loss"] for metrics in of_round)
        for number, of_round in rounds.items()
    }


def _all_kept(folder: Path) -> dict[str, torch.Tensor]:
    """The clients' parts and optimizer states after their last steps, by file and name."""
    kept: dict[str, torch.Tensor] = {}
    for path in folder.iterdir():
        for number, state in enumerate(torch.load(path, weights_only=True)["parts"]):
            optimizer = state["optimizer"]["state"].items()
            own = {f"{key}.{kind}": value for key, one in optimizer for kind, value in one.items() if value is not None}
            named = (*state["modules"]["part"].items(), *own.items())
            kept |= {f"{path.stem}.{number}.{name}": tensor for name, tensor in named}
    return kept
