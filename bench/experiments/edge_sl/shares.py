"""Costs of EPSL over the share of positions whose gradients are averaged (Split Learning in 6G Edge Networks, IV.C)."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec.structs import replace

from bench.experiments.edge_sl.parameters import Clients, SchemeChoice
from bench.experiments.edge_sl.schemes import trained
from bench.suite.experiment import Context, Measurement, Problem, Setting
from bench.suite.parameter_types import Share


class AveragedShares(Clients, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``Clients`` that train by EPSL at each share of ``phis``; ``method`` has its other options."""

    method: SchemeChoice = SchemeChoice(scheme="epsl")
    phis: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)] = (0.0, 0.5, 1.0)

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from super().problems(setting)
        if self.method.scheme != "epsl" or "phi" in self.method.options:
            yield Problem(("method",), f"got {self.method}; expected scheme epsl, whose phi is each of phis")

    def at(self, phi: float) -> "AveragedShares":
        """These parameters with the share ``phi``."""
        return replace(self, method=replace(self.method, options=self.method.options | {"phi": phi}))


def curve(parameters: AveragedShares, context: Context) -> Iterator[Measurement]:
    """What ``edge_sl.course`` measures, at each share."""
    data = None if context.dataset == "none" else parameters.selected(context)
    for phi in parameters.phis:
        for one in trained(parameters.at(phi), context, data):
            yield replace(one, case={"phi": phi, **one.case})
