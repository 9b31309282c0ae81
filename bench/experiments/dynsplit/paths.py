"""Measurements of a training with paths at the cut: accuracy, bytes, choice of paths, and steering of the choice."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from bench.experiments.common.inference import Answers, answers
from bench.experiments.common.two_node_training import Trained
from bench.suite.experiment import Measurement
from netem.trace import TraceError, read
from netem.trace_schedule import locate
from nodes.data.batching import subset
from nodes.stages.dynsplit import gate as gating
from nodes.stages.dynsplit.link_follower import Follower, PathBytes
from nodes.stages.dynsplit.stage import DynSplit

CONVERGED = 0.95  # share of its best accuracy from which on a training counts as converged
CALIBRATION = 2000  # training samples whose scores determine thresholds


def learning(trained: Trained) -> Iterator[Measurement]:
    """Accuracies at the end and by epoch, ratio by epoch, and the share of the training until convergence."""
    epochs = trained.outcome.epochs
    accuracies = [epoch["test_accuracy"] for epoch in epochs]
    in_training = [epoch["train_accuracy"] for epoch in epochs]
    yield Measurement("test_accuracy", accuracies[-1], "fraction")
    for number, epoch in enumerate(epochs, start=1):
        yield Measurement("epoch_accuracy", epoch["test_accuracy"], "fraction", {"epoch": number})
        yield Measurement("epoch_train_accuracy", epoch["train_accuracy"], "fraction", {"epoch": number})
        if "link0.path1" in epoch:
            yield Measurement("epoch_ratio", epoch["link0.path0"], "fraction", {"epoch": number})
    near = next(i for i, accuracy in enumerate(accuracies) if accuracy >= CONVERGED * max(accuracies))
    yield Measurement("converged_after_share", (near + 1) / len(accuracies), "fraction")
    for name, values in (("late_fluctuation", accuracies), ("late_train_fluctuation", in_training)):
        late = torch.tensor(values[len(values) // 2 :])
        yield Measurement(name, float(late.diff().abs().mean()) if len(late) > 1 else 0.0, "fraction")


def by_path(trained: Trained) -> Iterator[Measurement]:
    """Accuracy and bytes of a network with several paths where all samples take the same one."""
    stage = trained.segments[0].outbound
    if not isinstance(stage, DynSplit) or len(stage.paths) == 1:
        return
    for number, path in enumerate(stage.paths):
        stage.only = number
        found, case = answers(trained.segments, trained.data.test), {"channels": path.channels}
        yield Measurement("width_accuracy", found.accuracy, "fraction", case)
        yield Measurement("width_bytes_per_sample", found.bytes_per_sample, "B", case)
    stage.only = None


def traffic(trained: Trained) -> Iterator[Measurement]:
    """Payload bytes between the nodes per sample: in inference, and in training with codes and gradients.

    A teacher's logits count in training; labels do not.
    """
    ran = trained.outcome.epochs[trained.outcome.earlier :]
    samples = sum(epoch["trained_samples"] for epoch in ran)
    forward = sum(epoch["link0.code_bytes"] * epoch["trained_samples"] for epoch in ran)
    forward += 4 * trained.job.classes * samples if trained.job.distillation else 0
    returned = trained.outcome.nodes[1].sent_downlink["gradient"].payload_bytes if samples else 0
    yield Measurement("bytes_per_sample", answers(trained.segments, trained.data.test).bytes_per_sample, "B")
    if samples:
        yield Measurement("training_bytes_per_sample", (forward + returned) / samples, "B")


class Steered:
    """A trained network with a steerable choice of paths at inference."""

    def __init__(self, trained: Trained) -> None:
        self.segments, self.test = trained.segments, trained.data.test
        stage = trained.segments[0].outbound
        assert isinstance(stage, DynSplit)
        self.stage = stage
        self.known_scores = answers(trained.segments, subset(trained.data.train, CALIBRATION, 0)).scores

    @property
    def learned(self) -> bool:
        """Whether a learned gate chooses."""
        return self.stage.gate is not None

    def threshold(self, share: float) -> float:
        """The threshold above which ``share`` of the training samples' margins lie."""
        return gating.threshold_for(gating.margin(self.known_scores), share)

    def at(self, share: float | None = None) -> Answers:
        """The answers with about ``share`` of the samples on the first path by the gate's ranking; None: by arg-max."""
        self.stage.inference, self.stage.threshold = "argmax", 0.0 if share is None else self.threshold(share)
        return answers(self.segments, self.test)

    def sampled(self) -> Answers:
        """The answers with paths drawn by the gate's probabilities, as in training (section IV-B)."""
        self.stage.inference = "sampled"
        return answers(self.segments, self.test)

    def blindly(self, share: float) -> Answers:
        """The answers with an arbitrary ``share`` of the samples on the first path."""
        self.stage.random_share = share
        found = answers(self.segments, self.test)
        self.stage.random_share = None
        return found

    def only(self, path: int) -> Answers:
        """The answers with all samples on ``path`` (from 0)."""
        self.stage.only = path
        found = answers(self.segments, self.test)
        self.stage.only = None
        return found


def choosing(network: Steered, target: float) -> Iterator[Measurement]:
    """Share of samples on the first path, its dependence on the sample, and the accuracy gained by that."""
    chosen = network.at()
    share = float((chosen.choice == 0).float().mean())
    yield Measurement("ratio", share, "fraction")
    yield Measurement("ratio_error", abs(share - target), "fraction")
    observed, wanted = torch.tensor([share, 1 - share]), torch.tensor([target, 1 - target])
    yield Measurement("choice_bits", float(network.stage.choice_bits), "bits a sample")
    yield Measurement("collapsed", float(gating.is_collapsed(observed, wanted)), "1")
    paths = [network.only(path) for path in range(len(network.stage.paths))]
    for number, path in enumerate(paths, start=1):
        yield Measurement("path_accuracy", path.accuracy, "fraction", {"path": number})
    blind_accuracy = network.blindly(share).accuracy
    yield Measurement("blind_accuracy", blind_accuracy, "fraction")
    yield Measurement("gate_advantage", chosen.accuracy - blind_accuracy, "fraction")
    if network.stage.samples:
        drawn = network.sampled()
        ratio = float((drawn.choice == 0).float().mean())
        yield Measurement("sampled_ratio", ratio, "fraction")
        yield Measurement("sampled_ratio_error", abs(ratio - target), "fraction")
        yield Measurement("sampled_accuracy", drawn.accuracy, "fraction")
        yield Measurement("sampled_bytes_per_sample", drawn.bytes_per_sample, "B")
    if network.learned:
        yield from _against_losses(network, target, chosen.scores, paths)
        yield Measurement("information_nats", gating.mutual_information(chosen.scores.softmax(1)), "nats")
        steered = network.at(target)
        yield Measurement("steered_ratio", float((steered.choice == 0).float().mean()), "fraction")
        yield Measurement("steered_accuracy", steered.accuracy, "fraction")
        yield Measurement("steered_bytes_per_sample", steered.bytes_per_sample, "B")
        yield Measurement("steered_advantage", steered.accuracy - network.blindly(target).accuracy, "fraction")


def _against_losses(
    network: Steered, target: float, scores: torch.Tensor, paths: Sequence[Answers]
) -> Iterator[Measurement]:
    """How the gate's margins go with what the first path gains, and what a choice by these gains themselves attains."""
    labels = torch.from_numpy(network.test.labels)
    dear, cheap = (nn.functional.cross_entropy(one.logits, labels, reduction="none") for one in paths[:2])
    pair = torch.stack([gating.margin(scores), cheap - dear])
    yield Measurement("gain_correlation", float(torch.corrcoef(pair)[0, 1].nan_to_num()), "1")
    first = torch.zeros(len(labels), dtype=torch.bool)
    first[(cheap - dear).argsort(descending=True)[: round(target * len(labels))]] = True
    best = torch.where(first, paths[0].correct, paths[1].correct)
    yield Measurement("oracle_accuracy", float(best.float().mean()), "fraction")


def curve(network: Steered, shares: Sequence[float]) -> Iterator[Measurement]:
    """Accuracy and bytes of one network over shares of the first path, by the gate's ranking and blindly."""
    for share in shares:
        steered, case = network.at(share), {"share": share}
        yield Measurement("curve_accuracy", steered.accuracy, "fraction", case)
        yield Measurement("curve_bytes_per_sample", steered.bytes_per_sample, "B", case)
        yield Measurement("curve_blind_accuracy", network.blindly(share).accuracy, "fraction", case)


CAUTION = {"follow": 0.0, "follow with caution": 2.0}  # mean errors that a policy subtracts from its rate estimate


class LinkTimeline(NamedTuple):
    """By second of a link: bytes handed to it, accuracy of the answers, and bytes waiting afterwards."""

    sent: list[float]
    accuracy: list[float]
    waiting: list[float]


def link_timelines(network: Steered, rates_bps: Sequence[float], samples_per_s: int) -> dict[str, LinkTimeline]:
    """The timeline of a link with a rate for each second, by policy: link followers and constant shares.

    Answers do not depend on other samples, so those of each path are computed once for the whole test set. Samples
    arrive in random order, since they may be stored class by class.
    """
    correct = torch.stack([network.blindly(1.0).correct, network.blindly(0.0).correct])  # (paths, N)
    margins = gating.margin(network.at().scores)
    order = torch.randperm(len(margins), generator=torch.Generator().manual_seed(0))
    dear, cheap = (path.sample_bytes + 1 / 8 for path in network.stage.paths)
    costs, mean_rate = PathBytes(cheap, dear), sum(rates_bps) / len(rates_bps)
    fixed = {"all dear": 1.0, "all cheap": 0.0, "mean rate": costs.share(mean_rate / 8 / samples_per_s)}
    found = {}
    for policy in (*CAUTION, *fixed):
        follower, timeline = Follower(0.0, rates_bps[0] / 8), LinkTimeline([], [], [])
        for second, rate in enumerate(rates_bps):
            share = fixed.get(policy, follower.share(costs, samples_per_s, CAUTION.get(policy, 0.0)))
            batch = order[(torch.arange(samples_per_s) + second * samples_per_s) % len(margins)]
            path = (margins[batch] <= network.threshold(share)).long()
            timeline.sent.append(float(torch.tensor([dear, cheap])[path].sum()))
            timeline.accuracy.append(float(correct[path, batch].float().mean()))
            follower = follower.after(timeline.sent[-1], rate / 8)
            timeline.waiting.append(follower.waiting)
        found[policy] = timeline
    return found


def following(timelines: Mapping[str, LinkTimeline], samples_per_s: int) -> Iterator[Measurement]:
    """Accuracy, bytes sent and bytes left waiting of each policy."""
    for policy, timeline in timelines.items():
        seconds, case = len(timeline.sent), {"policy": policy}
        yield Measurement("link_accuracy", sum(timeline.accuracy) / seconds, "fraction", case)
        yield Measurement("link_bytes_per_sample", sum(timeline.sent) / seconds / samples_per_s, "B", case)
        late = sum(waiting > 0 for waiting in timeline.waiting)
        yield Measurement("late_seconds_share", late / seconds, "fraction", case)
        yield Measurement("waiting_at_end_bytes", timeline.waiting[-1], "B", case)


def by_second(followed: LinkTimeline, rates_bps: Sequence[float]) -> Iterator[Measurement]:
    """Bytes handed to the link and bytes that it can carry, second by second."""
    for second, (sent, rate) in enumerate(zip(followed.sent, rates_bps, strict=True)):
        yield Measurement("link_bytes_per_s", rate / 8, "B/s", {"second": second, "of": "capacity"})
        yield Measurement("link_bytes_per_s", sent, "B/s", {"second": second, "of": "sent"})


def second_rates(trace: str) -> list[float]:
    """The mean rate in bit/s in each whole second of ``trace``, a packaged one's name or a path. Raises TraceError."""
    spans = read(locate(trace), direction="uplink").resampled(1.0).spans()
    rates = [rate_bps for start_s, end_s, rate_bps in spans if end_s - start_s > 1 - 1e-6]
    if not any(rates):
        raise TraceError(f"{trace}: no whole second has a rate above 0; a followed trace needs one")
    return rates


def determination(points: dict[float, float]) -> float:
    """R squared of a straight line through ``points``; 1 if all y are equal."""
    x, y = (torch.tensor(list(column), dtype=torch.float64) for column in (points.keys(), points.values()))
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1] ** 2) if y.var() else 1.0
