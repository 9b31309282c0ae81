"""Comparison of schemes at learning rates that are chosen alike for all, on training pictures held out."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import msgspec

from bench.experiments.edge_sl.parameters import Clients
from bench.experiments.edge_sl.schemes import trained
from bench.suite.experiment import Context, Measurement, Problem, Setting
from bench.suite.parameter_types import Count, Positive
from nodes.data.batching import split_holdout
from nodes.spec.job import OptimizerSpec
from reports.record import DIVERGED

Rates = tuple[Positive, Positive]  # of the clients' parts, and of the servers'


class Tuned(Clients, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``Clients`` whose learning rates are the best of ``rates``, pairs for clients and servers.

    Each pair is tried for ``tuning_rounds`` of a training that leaves ``held_out`` training pictures out; the pair of
    the best balanced accuracy on these is taken, of equal ones the first. Where clients have the whole network, pairs
    that differ in the servers' rate alone are one.
    """

    rates: Annotated[tuple[Rates, ...], msgspec.Meta(min_length=1)] = ((0.01, 0.01), (0.05, 0.05))
    tuning_rounds: Count = 1
    held_out: Count = 100

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from super().problems(setting)
        if self.server_lr is not None:
            yield Problem(("server_lr",), "the servers' rates are those of rates; give no other")
        if self.optimizer.lr != OptimizerSpec().lr:
            yield Problem(("optimizer", "lr"), "the clients' rates are those of rates; give no other")
        if late := [move for move in self.moves if move.after_rounds >= self.tuning_rounds]:
            yield Problem(("tuning_rounds",), f"{list(late[0])} moves after the last round of a try; give more rounds")
        if not self.learn or setting.dataset == "none":
            yield Problem(("learn",), "nothing is learned here that rates could be chosen by")

    @property
    def least(self) -> tuple[int, str]:
        """As for any clients, beside the pictures held out."""
        count, why = super().least
        return count + self.held_out, f"{why}, and {self.held_out} held out"

    def at(self, rates: Rates) -> "Tuned":
        """These parameters with learning rates ``rates``."""
        optimizer = msgspec.structs.replace(self.optimizer, lr=rates[0])
        return msgspec.structs.replace(self, optimizer=optimizer, server_lr=rates[1])

    @property
    def tries(self) -> list[Rates]:
        """The pairs of rates that differ for the scheme."""
        alone = self.method.build().server_parts == "none"
        return list(
            dict.fromkeys((client_lr, client_lr if alone else server_lr) for client_lr, server_lr in self.rates)
        )


def tuned(parameters: Tuned, context: Context) -> Iterator[Measurement]:
    """Choose the learning rates, then train as ``edge_sl.course`` does, on all pictures."""
    data = parameters.selected(context)
    train, validation = split_holdout(data.train, parameters.held_out, context.seed)
    held = replace(data, train=train, test=validation)
    scores: list[tuple[float, Rates]] = []
    for rates in parameters.tries:
        rounds = parameters.tuning_rounds
        short = msgspec.structs.replace(parameters.at(rates), rounds=rounds, test_every=rounds, times_s=())
        measured = {one.metric: one.value for one in trained(short, context, held)}
        case = {"lr": rates[0], "server_lr": rates[1]}
        if DIVERGED in measured:
            yield Measurement("try_diverged", 1, "1", case)
            continue
        score = measured["final_balanced_accuracy"]
        yield Measurement("validation_balanced_accuracy", score, "fraction", case)
        scores.append((score, rates))
    if not scores:
        yield Measurement(DIVERGED, 1, "1", {"round": 1})
        return
    _, best = max(scores, key=lambda pair: pair[0])
    yield Measurement("chosen_lr", best[0], "1")
    yield Measurement("chosen_server_lr", best[1], "1")
    yield from trained(parameters.at(best), context, data)
