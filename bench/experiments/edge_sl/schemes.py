"""Comparison of SL, SFL, PSL, EPSL and FL by accuracy, time, bytes and compute (Split Learning in 6G Edge Networks)."""

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import torch
from msgspec.structs import replace
from torch.utils.flop_counter import FlopCounterMode

from bench import events
from bench.experiments.common.learning import largest_payload, weights_of
from bench.experiments.common.trained_pictures import of_rounds
from bench.experiments.edge_sl.memory import memory_bytes
from bench.experiments.edge_sl.parameters import Clients, minimal
from bench.suite.experiment import Context, Measurement
from netem.profiles import Duplex, duplex
from nodes.data.images import Dataset
from nodes.federated.in_process import FederationOutcome, ReportRound, RoundOutcome, run_in_process, run_in_virtual_time
from nodes.model.chain import Chain
from nodes.model.factory import build_model
from nodes.spec.federation import Federation
from nodes.spec.job import Job, Timing
from nodes.wire.messages import RoundReport
from reports.record import DIVERGED, CaseValue

BACKWARD = 2.0  # a backward pass takes twice the operations of a forward pass, as is usual for convolutions


def course(parameters: Clients, context: Context) -> Iterator[Measurement]:
    """Train; accuracy and loss by round, bytes, compute, and in live and virtual mode time."""
    yield from trained(parameters, context, None if context.dataset == "none" else parameters.selected(context))


def trained(parameters: Clients, context: Context, data: Dataset | None) -> Iterator[Measurement]:
    """What ``course`` measures on ``data``; None for blank pictures."""
    classes = parameters.classes(context)
    layout = parameters.layout(classes)
    payload_bytes = largest_payload(layout, parameters.batch_size, whole=True)
    about = minimal(parameters, layout) | {"classes": classes, "payload_bytes": payload_bytes}
    weights = weights_of(parameters.weights, str(parameters.model), layout, context.say)
    job = parameters.job(context, layout, **about, weights=weights)
    federation = parameters.federation(job)
    work = _work(job)
    links = [duplex(parameters.links[number % len(parameters.links)]) for number in range(parameters.clients)]
    if context.mode == "live":
        outcome = _live(parameters, context, federation, links)
        yield Measurement("uncalibrated_links", len(outcome.uncalibrated), "directions")
    elif context.mode == "virtual":
        federation = replace(federation, test_every=0, **_timings(parameters, work))
        joined = dict(zip(federation.client_names, links, strict=True))
        joined |= dict.fromkeys(federation.edge_names, duplex(parameters.backhaul))
        shared = parameters.shared_cell
        outcome = run_in_virtual_time(federation, joined, data, parameters.learn, shared_cell=shared)
    else:
        outcome = run_in_process(federation, data, _saying(context))
    learned = parameters.learn and context.dataset != "none"
    if not learned:  # on blank pictures answers are correct by chance
        outcome.rounds = [replace(one, correct_by_class=[], total_by_class=[]) for one in outcome.rounds]
    ended = min((one.round for one in outcome.rounds if not math.isfinite(one.metrics["loss"])), default=None)
    if ended is not None:  # a finding, not a failure: what was measured before it stands, and there is no result
        yield from _learning(outcome, ended, learned)
        yield Measurement(DIVERGED, 1, "1", {"round": ended + 1})
        return
    if learned:
        yield of_rounds(one.metrics for one in outcome.rounds)
    yield from _learning(outcome, parameters.rounds, learned)
    if context.mode != "in-process":
        yield from _times(outcome, parameters, context.mode == "virtual")
    yield from _totals(outcome, parameters, work)
    yield from _memory(job, layout, parameters)


def _live(parameters: Clients, context: Context, federation: Federation, links: list[Duplex]) -> FederationOutcome:
    from bench.live.federated import run_live  # noqa: PLC0415  (aiohttp and uvloop, which a run in process does without)

    outcome = run_live(
        federation,
        links,
        duplex(parameters.backhaul),
        _saying(context),
        clients_per_process=parameters.clients_per_process,
        shaping=context.shaping,
        self_test=context.self_test,
    )
    if outcome.lost:
        raise RuntimeError("; ".join(f"{client} was lost: {how}" for client, how in outcome.lost.items()))
    for complaint in outcome.uncalibrated:
        context.say(f"not calibrated: {complaint}")
    return outcome


def _saying(context: Context) -> ReportRound:
    def say(report: RoundReport) -> None:
        loss = report.metrics["loss"] / max(1.0, report.metrics["steps_with_loss"])
        late = f", {late:.0f} clients late: their results dropped" if (late := report.metrics["late"]) else ""
        context.say(f"edge {report.edge + 1}, round {report.round + 1}: training loss {loss:.3f}{late}")
        events.emit("learned", curve=f"edge {report.edge + 1}", at_epoch=report.round + 1, loss=loss)

    return say


class Work(NamedTuple):
    """Counted floating-point operations of one picture's forward pass."""

    client: float
    server: float
    tail: float = 0.0  # of the last layers, where these are the client's

    @property
    def client_share(self) -> float:
        """The share that clients compute."""
        return (self.client + self.tail) / (self.client + self.server + self.tail)


def _work(job: Job) -> Work:
    """The operations of a client and its server for one picture."""
    model = build_model(job.model, job.classes, job.input_shape, job.seed)
    chain = Chain(model, job.input_shape, dtype=job.input_type)
    values = {chain.input: torch.zeros(1, *job.input_shape, dtype=chain.dtype)}
    counted = []
    for start, stop in pairwise((0, *job.cuts, len(chain))):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            values = chain.part(start, stop).eval()(values) if start < stop else values
        counted.append(float(counter.get_total_flops()))
    return Work(*counted)


def _timings(parameters: Clients, work: Work) -> dict[str, Timing]:
    """Seconds of a batch's forward and backward pass at the fastest client and at a server."""
    sent = parameters.method.build().batch_size(parameters.batch_size)
    client_s, tail_s = (one * sent / parameters.client_flops for one in (work.client, work.tail))
    server_s = work.server * parameters.batch_size / parameters.server_flops
    return {
        "client_timing": Timing(
            forward_s=client_s,
            backward_s=BACKWARD * client_s,
            tail_forward_s=tail_s,
            tail_backward_s=BACKWARD * tail_s,
        ),
        "server_timing": Timing(forward_s=server_s, backward_s=BACKWARD * server_s),
    }


def _learning(outcome: FederationOutcome, rounds: int, learned: bool) -> Iterator[Measurement]:
    """Loss and accuracy by round over all edge servers; losses only if networks ``learned``."""
    for number in range(rounds):
        of_round = [one for one in outcome.rounds if one.round == number]
        case: dict[str, CaseValue] = {"round": number + 1}
        steps = sum(one.metrics["steps_with_loss"] for one in of_round)
        if steps and learned:
            yield Measurement("training_loss_nats", sum(one.metrics["loss"] for one in of_round) / steps, "nats", case)
        accuracy = _accuracy(of_round)
        if accuracy is not None:
            yield Measurement("test_accuracy", accuracy, "fraction", case)
            yield Measurement("balanced_accuracy", _balanced(of_round), "fraction", case)


def _times(outcome: FederationOutcome, parameters: Clients, virtual: bool) -> Iterator[Measurement]:
    """Total and mean round time, and the accuracy at ``times_s``, each of the last round ended by then.

    On a virtual clock also the share of the time in which the busiest server computes.
    """
    began = min(one.metrics["began"] for one in outcome.rounds)
    tests_s = 0.0  # not counted; zero on a virtual clock
    moments: list[tuple[float, float | None]] = []  # seconds at the end of each round, and accuracy if tested
    for number in range(parameters.rounds):
        of_round = [one for one in outcome.rounds if one.round == number]
        trained = max(max(one.metrics["trained"], one.metrics["averaged"]) for one in of_round)
        moments.append((trained - began - tests_s, _accuracy(of_round)))
        tests_s += max(0.0, max(one.metrics["ended"] for one in of_round) - trained)
    total_s, _ = moments[-1]
    yield Measurement("total_s", total_s, "s")
    yield Measurement("round_s", total_s / len(moments), "s")
    if virtual:
        served_s = max(node.compute_s for node in outcome.nodes if node.name.startswith("edge"))
        yield Measurement("server_busy_share", served_s / total_s, "fraction")
    for time_s in parameters.times_s:
        ended = [accuracy for elapsed_s, accuracy in moments if elapsed_s <= time_s and accuracy is not None]
        if ended:
            yield Measurement("accuracy_at", ended[-1], "fraction", {"time_s": time_s})


def _totals(outcome: FederationOutcome, parameters: Clients, work: Work) -> Iterator[Measurement]:
    """Totals over all rounds and edge servers."""

    def total(name: str) -> float:
        return sum(one.metrics[name] for one in outcome.rounds)

    last = [one for one in outcome.rounds if one.round == parameters.rounds - 1]
    accuracy = _accuracy(last)
    if accuracy is not None:
        yield Measurement("final_accuracy", accuracy, "fraction")
        yield Measurement("final_balanced_accuracy", _balanced(last), "fraction")
        yield Measurement("largest_class_share", _largest_share(last), "fraction")
    steps = total("steps")
    yield Measurement("client_steps", steps, "steps")
    yield Measurement("uplink_bytes", total("uplink_bytes"), "B")
    yield Measurement("downlink_bytes", total("downlink_bytes"), "B")
    if parameters.moves:
        yield Measurement("moved_bytes", total("moved_bytes"), "B")
    metrics = [one.metrics for one in outcome.rounds]
    spared = sum(one["shared_bytes"] * (1 - 1 / max(1.0, one["participants"])) for one in metrics)
    yield Measurement("downlink_broadcast_bytes", total("downlink_bytes") - spared, "B")
    sent = parameters.method.build().batch_size(parameters.batch_size)
    operations = (1 + BACKWARD) * sent * steps * (work.client + work.tail)
    yield Measurement("client_operations", operations, "FLOP")
    yield Measurement("client_share", work.client_share, "fraction")
    busy = sum(node.compute_s for node in outcome.nodes if node.name.startswith("client"))
    yield Measurement("client_compute_s_per_step", busy / max(1.0, steps), "s/step")
    updates = total("updates")
    if updates:
        yield Measurement("server_updates", updates, "updates")
        passes = total("forward_samples") + BACKWARD * total("backward_samples")
        yield Measurement("server_operations", passes * work.server, "FLOP")
        yield Measurement("backward_samples_per_update", total("backward_samples") / updates, "samples/update")
        yield Measurement("forward_samples_per_update", total("forward_samples") / updates, "samples/update")
    if total("backward_s"):
        yield Measurement("backward_s_per_update", total("backward_s") / updates, "s/update")
    if not parameters.method.build().waits:
        yield Measurement("staleness_updates", total("staleness") / steps, "updates")


def _memory(job: Job, layout: Chain, parameters: Clients) -> Iterator[Measurement]:
    """What a client's layers take in training."""
    sent = parameters.method.build().batch_size(parameters.batch_size)
    taken = None
    with suppress(Exception):  # a user's layers may need data
        taken = memory_bytes(job, layout, (0, 2), sent)
    if taken is not None:
        yield Measurement("client_memory_bytes", taken, "B")


def _accuracy(rounds: list[RoundOutcome]) -> float | None:
    """The share of correct answers; None without tests."""
    tested = sum(sum(one.total_by_class) for one in rounds)
    return sum(sum(one.correct_by_class) for one in rounds) / tested if tested else None


def _balanced(rounds: list[RoundOutcome]) -> float:
    """The mean accuracy of the classes that occur."""
    both = [(one.correct_by_class, one.total_by_class) for one in rounds if one.total_by_class]
    right, tested = torch.tensor(both).sum(0)
    return float((right[tested > 0] / tested[tested > 0]).mean())


def _largest_share(rounds: list[RoundOutcome]) -> float:
    """The accuracy of answering the largest class always."""
    tested = torch.tensor([one.total_by_class for one in rounds if one.total_by_class]).sum(0)
    return float(tested.max() / tested.sum())
