"""Live service with known link rates against one that measures its links by its own tasks.

With known rates the runner updates nodes when a rate changes, as a base station would (HiveMind, section IV-F). With
measured rates nodes know only delays: a link counts as unlimited until tasks have crossed it, so all are tried.
"""

import statistics
from collections.abc import Iterator
from typing import Literal

from msgspec.structs import replace

from bench.experiments.hivemind.live_route import LiveRouteParameters, error_of, held, known_of, served, setup_of
from bench.live.inference import LiveService
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Count, Positive
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.spec.policy import Policy
from nodes.wire.messages import TaskReport

Phases = dict[str, list[TaskReport]]


class RateParameters(LiveRouteParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The link from the UE is ``slowdown`` times slower in the second of two phases.

    The first ``settling`` tasks of each phase are not counted. A measured rate is the median of the last ``transfers``;
    nodes check their links every ``check_s``.
    """

    rates: Literal["known", "measured"] = "known"
    slowdown: Positive = 20.0
    settling: Count = 4
    transfers: Count = 3
    check_s: Positive = 0.02

    @property
    def policy(self) -> Policy:
        """The policy of link estimates: small changes of measured rates trigger no new split."""
        if self.rates == "known":
            return Policy()
        return Policy(rate_transfers=self.transfers, check_s=self.check_s * self.dilation, min_change=0.01)


def rates(parameters: RateParameters, context: Context) -> Iterator[Measurement]:
    """Latency, its prediction error and the nodes' layers, before and after the link becomes slow."""
    setup = setup_of(parameters, context)
    blind = parameters.rates == "measured"
    known = {ends: replace(link, rate_bps=None) if blind else link for ends, link in setup.known.items()}
    setup = replace(setup, service=replace(setup.service, policy=parameters.policy), known=known)
    upper, lower = parameters.before[:2]
    spec = parameters.links[f"{upper}-{lower}"]
    link = LinkProfile(
        rate_bps=spec.rate_bps / parameters.slowdown / parameters.dilation, delay_s=spec.delay_s * parameters.dilation
    )

    async def script(live: LiveService) -> Phases:
        await live.join(*parameters.before)
        await live.set_route(*parameters.before)
        await live.begin()
        before = await _counted(live, parameters)
        await live.set_link(upper, lower, Duplex(up=link, down=link))
        if not blind:
            await live.announce_link(upper, lower, known_of(link, 0.0))
        slow = await _counted(live, parameters)
        await live.end()
        return {"before": before, "slow": slow}

    phases, calibration = served(setup, script, context)
    yield from calibration
    for phase, tasks in phases.items():
        latency_ms = 1e3 * (statistics.median(task.latency_s for task in tasks) / parameters.dilation)
        yield Measurement("latency_ms", latency_ms, "ms", {"phase": phase})
        yield Measurement("prediction_error", statistics.fmean(map(error_of, tasks)), "1", {"phase": phase})
        for name in parameters.before:
            yield Measurement("layers", held(tasks[-1], name), "layers", {"phase": phase, "node": name})


async def _counted(live: LiveService, parameters: RateParameters) -> list[TaskReport]:
    begun = len(live.tasks) + parameters.settling
    await live.until_tasks(begun + parameters.tasks)
    return live.tasks[begun : begun + parameters.tasks]
