"""Experiments of the project, by the name that suites use: ``run: pipeline.chain`` is ``chain`` of that module."""

MODULES = {
    "adaptive": "hivemind.live_protocol",
    "cellular": "general.cellular",
    "deprune": "deprune.experiments",
    "deprune_testbeds": "deprune.testbeds",
    "deprune_traffic": "deprune.traffic",
    "dynsplit": "dynsplit.experiments",
    "edge_placement": "edge_sl.placement",
    "edge_privacy": "edge_sl.privacy",
    "edge_rates": "edge_sl.rates",
    "edge_roaming": "edge_sl.migration",
    "edge_shares": "edge_sl.shares",
    "edge_sl": "edge_sl.schemes",
    "hivemind_contention": "hivemind.network.contention",
    "hivemind_dynamics": "hivemind.network.dynamics",
    "hivemind_inference": "hivemind.network.inference",
    "hivemind_moving": "hivemind.network.moving",
    "hivemind_nonlinear": "hivemind.network.recurrent",
    "hivemind_objectives": "hivemind.network.objectives",
    "hivemind_profiles": "hivemind.profiles",
    "hivemind_training": "hivemind.network.energy",
    "hivemind_usage": "hivemind.network.usage",
    "links": "general.links",
    "live_rates": "hivemind.live_protocol",
    "live_route": "hivemind.live_route",
    "nonlinear": "hivemind.learning_agents",
    "pipeline": "general.pipeline",
    "speed": "general.speed",
    "split_search": "hivemind.solver",
    "transport": "general.transport",
}

_LIVE, _HERE, _VIRTUAL = ("live",), ("in-process",), ("virtual",)
_COMPUTED = ("in-process", "virtual")  # numbers that no link and no clock enters
MODES = {  # modes of the experiments of a file, or of one of them
    **dict.fromkeys(("adaptive", "links", "live_rates", "live_route", "transport"), _LIVE),
    **dict.fromkeys(("deprune", "dynsplit", "edge_privacy", "hivemind_profiles", "speed"), _HERE),
    **dict.fromkeys(("cellular", "deprune_testbeds", "edge_placement", "edge_shares", "links.many"), _VIRTUAL),
    **dict.fromkeys(
        (name for name in MODULES if name.startswith("hivemind_") and name != "hivemind_profiles"), _VIRTUAL
    ),
    **dict.fromkeys(("deprune_traffic.coders", "dynsplit.size", "edge_privacy.depth"), _COMPUTED),
    **dict.fromkeys(("edge_rates", "edge_roaming", "nonlinear", "split_search"), _COMPUTED),
    **dict.fromkeys(("edge_placement.migration", "deprune_traffic"), ("in-process", "live")),
    **dict.fromkeys(("edge_sl", "pipeline"), ("in-process", "live", "virtual")),
}


def modes_of(run: str) -> tuple[str, ...] | None:
    """The modes of the experiment ``run``; None for a user's own, which may have any."""
    return MODES.get(run) or MODES.get(run.partition(".")[0]) if ":" not in run else None
