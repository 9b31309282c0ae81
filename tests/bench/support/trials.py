"""For each experiment small parameters, the modes that it has, and another value for each of its parameters."""

from typing import Any, NamedTuple

SMALL_CNN, SLIM_CNN = "nodes.zoo.small_cnn:small_cnn", "user_models:slim_cnn"
WEIGHTS = "WEIGHTS"  # the path of a file with weights of SMALL_CNN


class With(NamedTuple):
    """A value that shows only beside ``others``, which both sides are given."""

    value: Any
    others: dict[str, Any]


class Trial(NamedTuple):
    base: dict[str, Any]
    others: dict[str, Any]  # for each field a value other than its own in ``base``
    modes: tuple[str, ...] = ("virtual",)
    dataset: str = "none"


DEVICE = {"timing": {"forward_s": 0.01, "backward_s": 0.02}}
SLOW = {"up": {"rate_bps": 1e6}, "down": {"rate_bps": 1e6}}
LEARNING = {
    "model": SLIM_CNN,
    "optimizer": {"lr": 0.5},
    "batch_size": 4,
    "side": 24,
    "input": {"shape": [3, 24, 24]},
    "train_samples": 40,
    "test_samples": 6,
    "augment": True,
    "label_smoothing": 0.1,
    "precision": "bfloat16",
    "memory_format": "channels_last",
    "threads": 2,
}
SMALL = {"model": SMALL_CNN, "batch_size": 8, "side": 16, "train_samples": 32, "test_samples": 8}

CHAIN = SMALL | {"nodes": 3, "splits": [4, 8]}
CHAIN_OTHERS = LEARNING | {
    "nodes": With(2, {"splits": None}),
    "splits": [4, 9],
    "tail": 10,
    "stage": "int8",
    "link": SLOW,
    "backhaul": SLOW,
    "epochs": 2,
    "steps": 1,
    "microbatches": 2,
    "window": 1,
    "weights": WEIGHTS,
    "devices": {"ue": {"timing": {"forward_s": 0.5}}, "mec": DEVICE, "cloud": DEVICE},
    "time_dilation": 2.0,
}
TIMED_CHAIN = CHAIN | {
    "test_samples": 24,
    "link": {"up": {"rate_bps": 2e6}, "down": {"rate_bps": 2e6}},
    "devices": dict.fromkeys(("ue", "mec", "cloud"), DEVICE),
}
COMPARED = CHAIN_OTHERS | {"unsplit": True, "rounds": 2}

TWO_NODES = SMALL | {"cut": "3", "epochs": 1, "threads": 1}
TWO_NODES_OTHERS = LEARNING | {
    "cut": "7",
    "epochs": 2,
    "epsilon": With(0.1, {"epochs": 3}),
    "weights": WEIGHTS,
    "pretrain_epochs": 1,
    "pretrain_lr": With(0.3, {"pretrain_epochs": 1}),
}
PATHS = TWO_NODES | {"options": {"paths": [4, 1]}, "targets": [0.5]}
PATHS_OTHERS = TWO_NODES_OTHERS | {"options": {"paths": [3, 1]}, "targets": [0.25]}
FITTED = {
    "coder_epochs": With(1, {"pretrain_epochs": 1, "stage": {"name": "dynsplit", "options": {"paths": [4]}}}),
    "distillation": With({"weight": 0.5}, {"pretrain_epochs": 1}),
}
STEERED = {"steer": 0.5, "rates_bps": [1e4, 2e4]}
TRACED = STEERED | {"traces": ["wifi"], "budget_bytes_per_sample": [100]}

VGG = {"model": "tiny_vgg11", "train_samples": 32, "test_samples": 8, "augment": False, "threads": 1}
VGG_OTHERS = LEARNING | {"model": "small_vgg11", "cut": 8, "resolution": 2, "side": 64, "input": {"shape": [3, 64, 64]}}
NETWORK = {"kind": "mmwave", "load": "mid", "duration_s": 12.0}
NETWORK_OTHERS = {"kind": "sub6", "load": "high", "coherence_s": 0.1, "duration_s": 24.0}
TASKS = NETWORK | {"tasks": 4}
UNSTATED = {"ue_efficiency": 0.2, "data_hop_s": 0.002, "control_hop_s": 0.002, "batch_tasks": 10.0}
INFERENCE_OTHERS = NETWORK_OTHERS | {
    "tasks": 5,
    "workload": "vgg11-88",
    "unstated": UNSTATED,
}
DYNAMICS = {"duration_s": 12.0, "tasks": 5}
DYNAMICS_OTHERS = {
    "where": "mmwave",
    "coherence_s": 0.1,
    "duration_s": 24.0,
    "tasks": 6,
    "transfer": "instant",
    "sharers": 20.0,
    "density_spread": 2.0,
    "unstated": UNSTATED,
}
FORESIGHT_OTHERS = DYNAMICS_OTHERS | {"gaps": With(1, {"tasks": 200, "duration_s": 60.0, "coherence_s": 0.02})}
RECURRENT_OTHERS = NETWORK_OTHERS | {
    "tasks": 5,
    "unstated": UNSTATED,
    "limit_ms": 1.0,
    "steps": 3,
    "features": 50,
    "hidden": 200,
    "classes": 500,
}
FAR = [1e12, 9.0]  # where what takes few messages is best
FIELD = {"rounds": 12, "storage_share": 0.4}
FIELD_OTHERS = {
    "device_layers": 8,
    "clients": 3,
    "batches": 3,
    "batch_size": 5,
    "rounds": 7,
    "round_s": 90.0,
    "speed_m_per_s": 40.0,
    "storage_share": 0.1,
    "optimizer_states": 0,
    "access": [1e6, 0.1],
    "lateral": [1e3, 9.0],
    "backhaul": [1e3, 9.0],
}
MIGRATION_OTHERS = FIELD_OTHERS | {
    "model": SLIM_CNN,
    "side": 24,
    "input": {"shape": [3, 24, 24]},
    "lateral": With([1e3, 0.0], {"batches": 1}),
    "backhaul": With(FAR, {"lateral": FAR, "batches": 2}),
}
ROAMING_OTHERS = MIGRATION_OTHERS | {
    "storage_share": 4.0,
    "test_samples": 50,
    "speed_m_per_s": 4.0,
    "backhaul": FAR,
}
TRAINED_FIELD = {"model": SMALL_CNN, "side": 16, "device_layers": 4, "rounds": 4, "speed_m_per_s": 15.0}
PLACED_OTHERS = FIELD_OTHERS | {"workload": "vgg11-88"}
SERVICE_OTHERS = {"model": SLIM_CNN, "input_side": 24, "input": {"shape": [3, 24, 24]}, "granularity": "op"}
ROUTE = {
    "model": SMALL_CNN,
    "input_side": 16,
    "model_compute_s": {"ue": 0.2, "one": 0.1, "two": 0.1, "cloud": 0.1},
    "links": {ends: {"rate_bps": 1e8, "delay_s": 0.001} for ends in ("ue-one", "one-cloud", "ue-two", "two-cloud")},
    "before": ["ue", "one", "cloud"],
    "tasks": 2,
}
ROUTE_OTHERS = SERVICE_OTHERS | {
    "model_compute_s": {"ue": 0.3, "one": 0.1, "two": 0.1, "cloud": 0.1},
    "links": {ends: {"rate_bps": 1e7, "delay_s": 0.001} for ends in ("ue-one", "one-cloud", "ue-two", "two-cloud")},
    "before": ["ue", "two", "cloud"],
    "computing": ["ue"],
    "tasks": 3,
    "dilation": 2.0,
}
CLIENTS = SMALL | {"clients": 2, "edges": 1, "local_steps": 2, "optimizer": {"lr": 0.1}, "threads": 1}
CLIENTS_OTHERS = LEARNING | {
    "cut": 6,
    "method": {"scheme": "sl"},
    "stage": "int8",
    "clients": 3,
    "clients_per_process": 2,
    "edges": 2,
    "rounds": 2,
    "local_steps": 1,
    "partition": {"kind": "shards"},
    "server_lr": 0.3,
    "participants": 1,
    "round_deadline_s": 5.0,
    "least_clients": 2,
    "batch_norm": With("local", {"method": {"scheme": "fl"}}),
    "cloud_every": With(2, {"edges": 2, "rounds": 2}),
    "test_every": 2,
    "slowdowns": [1.0, 2.0],
    "tail": 12,
    "shared_cell": With(True, {"links": ["wifi"]}),
    "absences": [[0, 1, 1.0]],
    "moves": With([[1, 1, 0]], {"edges": 2, "rounds": 3, "method": {"scheme": "sflv1"}}),
    "links": ["wifi"],
    "backhaul": With("wifi", {"edges": 2}),
    "client_flops": 1e9,
    "server_flops": 1e9,
    "learn": False,
    "weights": WEIGHTS,
    "times_s": [10.0],
}
TUNED = CLIENTS | {"optimizer": {"momentum": 0.0}, "rates": [[0.1, 0.1], [0.2, 0.1]], "held_out": 8}
TUNED_OTHERS = CLIENTS_OTHERS | {
    "optimizer": {"momentum": 0.5},
    "rates": [[0.1, 0.2]],
    "tuning_rounds": 2,
    "held_out": 9,
    "train_samples": 40,
}
SHARES = CLIENTS | {"method": {"scheme": "epsl"}, "phis": [0.5]}
SHARES_OTHERS = CLIENTS_OTHERS | {
    "method": {"scheme": "epsl", "options": {"through": "one"}},
    "batch_norm": "local",
    "moves": With([[1, 1, 0]], {"edges": 2, "rounds": 3}),
    "phis": [0.25],
}
MEASURED_LINK = {"bulk_s": 0.1, "messages": 5, "busy": 1}

TRIALS: dict[str, Trial] = {
    "adaptive.handover": Trial(
        ROUTE
        | {"after": ["ue", "two", "cloud"], "dies": "two"}
        | {"links": ROUTE["links"] | {"ue-cloud": {"rate_bps": 1e8, "delay_s": 0.001}}},
        ROUTE_OTHERS
        | {"links": {ends: {"rate_bps": 1e7, "delay_s": 0.001} for ends in (*ROUTE["links"], "ue-cloud")}}
        | {"after": ["ue", "one", "cloud"], "dies": None, "calibration": 3},
        ("live",),
    ),
    "adaptive.updates": Trial(
        {"model": SMALL_CNN, "input_side": 16, "updates": 2, "discarded": 1},
        SERVICE_OTHERS | {"links": [SLOW], "updates": 3, "discarded": 2},
        ("live",),
    ),
    "cellular.bandwidth": Trial(NETWORK, NETWORK_OTHERS),
    "cellular.course": Trial(NETWORK, NETWORK_OTHERS | {"step_s": 2.0}),
    "cellular.upload": Trial(NETWORK, NETWORK_OTHERS | {"payload_bytes": 1000}),
    "deprune.course": Trial(
        VGG | {"epochs": [1, 1], "milestone": 1},
        VGG_OTHERS
        | {
            "method": "none",
            "epochs": [1, 2],
            "share": 0.5,
            "milestone": 2,
            "against": ["none"],
            "boosted_epochs": With(2, {"method": "boosted", "epochs": [1, 3]}),
        },
        ("in-process",),
        "digits",
    ),
    "deprune.family": Trial(
        VGG | {"epochs": [1, 1], "shares": [1.0, 0.25]},
        VGG_OTHERS
        | {
            "epochs": [1, 2],
            "shares": [1.0, 0.5],
            "early": With(1, {"epochs": [3, 3]}),
            "as_coded": True,
            "reset": False,
            "choice": "random",
            "boost": 2.0,
            "boosted_epochs": With(2, {"boost": 2.0, "epochs": [1, 3]}),
            "scratch": False,
            "scratch_epochs": 3,
        },
        ("in-process",),
        "digits",
    ),
    "deprune_testbeds.named_devices": Trial(
        VGG | {"testbed": "ethernet", "rates_bps": [1e9]},
        VGG_OTHERS
        | {
            "testbed": "wifi",
            "rates_bps": [1e8],
            "share": 0.5,
            "steps": With(4, {"testbed": "wifi", "rates_bps": [3e7]}),
        },
    ),
    "deprune_traffic.coders": Trial(
        {"model": "tiny_vgg11", "shares": [0.25]},
        {"model": "small_vgg11", "cut": 8, "resolution": 2, "shares": [0.5], "input": {"shape": [3, 64, 64]}},
    ),
    "deprune_traffic.traffic": Trial(
        VGG,
        VGG_OTHERS
        | {"sources": 2, "core_share": 0.5, "module": False, "share": 0.5, "link": "wifi", "epochs": 2, "steps": 1},
        ("in-process", "live"),
        "digits",
    ),
    "dynsplit.rationale": Trial(PATHS, PATHS_OTHERS, ("in-process",), "digits"),
    "dynsplit.single": Trial(TWO_NODES, TWO_NODES_OTHERS | {"stage": "int8"} | FITTED, ("in-process",), "digits"),
    "dynsplit.size": Trial(
        {"model": SMALL_CNN, "cut": "3"},
        {"model": SLIM_CNN, "cut": "7", "options": {"paths": [3, 1]}, "input": {"shape": [3, 64, 64]}},
    ),
    "dynsplit.sweep": Trial(
        PATHS,
        PATHS_OTHERS
        | {
            "alone": [1],
            "coder_epochs": With(1, {"pretrain_epochs": 1}),
            "steer": With(0.5, {"shares": [0.5]}),
            "shares": With([0.5], STEERED),
            "rates_bps": With([1e4], STEERED | {"rates_bps": [1e5]}),
            "traces": With(["5g-mmwave-driving"], TRACED),
            "budget_bytes_per_sample": With([50], TRACED),
            "samples_per_s": With(20, STEERED),
        },
        ("in-process",),
        "digits",
    ),
    "edge_placement.course": Trial(FIELD, PLACED_OTHERS | {"every": 2}),
    "edge_placement.migration": Trial(
        TRAINED_FIELD,
        MIGRATION_OTHERS,
        ("in-process", "live"),
        "digits",
    ),
    "edge_placement.placement": Trial(FIELD, PLACED_OTHERS),
    "edge_placement.tree": Trial(
        {},
        {
            "workload": "vgg11-88",
            "clients": [1, 2],
            "device_layers": 8,
            "batches": 5,
            "batch_size": 4,
            "storage_share": 0.5,
            "metro": [1e6, 0.1],
            "core": [1e6, 0.1],
        },
    ),
    "edge_privacy.depth": Trial(
        {"model": SMALL_CNN, "cuts": ["3"]},
        {"model": SLIM_CNN, "cuts": ["7"], "side": 16, "input": {"shape": [3, 16, 16]}, "repeats": 2},
        ("in-process",),
    ),
    "edge_privacy.privacy": Trial(
        TWO_NODES | {"cuts": ["3"], "auxiliary_samples": 12, "attacked_samples": 6, "attack_epochs": 1},
        TWO_NODES_OTHERS
        | {
            "cuts": ["7"],
            "stages": {"int8": "int8"},
            "auxiliary_samples": 14,
            "attacked_samples": 5,
            "attack_epochs": 2,
            "shown": 1,
            "shown_side": With(4, {"shown": 1}),
        },
        ("in-process",),
        "digits",
    ),
    "edge_rates.tuned": Trial(TUNED, TUNED_OTHERS, ("in-process", "virtual"), "digits"),
    "edge_roaming.roaming": Trial(
        TRAINED_FIELD | {"clients": 6, "rounds": 8, "batches": 10},
        ROAMING_OTHERS,
        ("in-process", "virtual"),
        "digits",
    ),
    "edge_shares.curve": Trial(SHARES, SHARES_OTHERS, ("virtual",), "digits"),
    "edge_sl.course": Trial(CLIENTS, CLIENTS_OTHERS, ("in-process", "live", "virtual"), "digits"),
    "hivemind_contention.contention": Trial(
        TASKS | {"ues": 3}, INFERENCE_OTHERS | {"ues": 4, "place": "apart", "period_s": 0.2}
    ),
    "hivemind_dynamics.accuracy": Trial(
        DYNAMICS | {"errors": [0.0, 0.5]},
        FORESIGHT_OTHERS
        | {"errors": [0.5], "transfer": With("instant", {"coherence_s": 0.01, "sharers": 20.0, "tasks": 40})},
    ),
    "hivemind_dynamics.prediction": Trial(DYNAMICS, FORESIGHT_OTHERS),
    "hivemind_dynamics.surges": Trial(DYNAMICS, DYNAMICS_OTHERS),
    "hivemind_inference.capability": Trial(
        TASKS, INFERENCE_OTHERS | {"improved": With("cloud", {"factor": 2.0}), "factor": 2.0}
    ),
    "hivemind_inference.handover": Trial(
        NETWORK | {"duration_s": 200.0, "tasks": 40},
        INFERENCE_OTHERS
        | {
            "kind": "sub6",
            "duration_s": 3.0,
            "tasks": 41,
            "leaving": "iab3",
            "entering": "iab3",
            "window_s": 5.0,
        },
    ),
    "hivemind_inference.latency": Trial(
        TASKS,
        INFERENCE_OTHERS
        | {"forecast": With("exact", {"kind": "sub6", "coherence_s": 0.01, "load": "high", "tasks": 40})},
    ),
    "hivemind_moving.moving": Trial(TASKS, INFERENCE_OTHERS | {"pictures": 2}),
    "hivemind_nonlinear.agents": Trial(TASKS | {"steps": 2}, RECURRENT_OTHERS | {"episodes": 2.0}),
    "hivemind_nonlinear.recurrent": Trial(
        TASKS | {"steps": 2}, RECURRENT_OTHERS | {"limit_of": With("module", {"steps": 60, "limit_ms": 20.0})}
    ),
    "hivemind_objectives.objectives": Trial(
        TASKS, INFERENCE_OTHERS | {"limit_ms": 60.0, "energy_weight": 0.1, "weights": [2.0]}
    ),
    "hivemind_profiles.measured": Trial(
        {}, {"workload": "vgg11-88", "repeats": 2, "power_w": 1.0, "unstated": UNSTATED}, ("in-process",)
    ),
    "hivemind_training.energy": Trial(TASKS, INFERENCE_OTHERS),
    "hivemind_usage.usage": Trial(TASKS, INFERENCE_OTHERS),
    "links.by_name": Trial({}, MEASURED_LINK, ("live",)),
    "links.many": Trial(TIMED_CHAIN, CHAIN_OTHERS),
    "links.sweep": Trial(
        {"values": [1e6]},
        MEASURED_LINK
        | {
            "profile": {"rate_bps": 1e6, "delay_s": 0.5},
            "vary": "delay_s",
            "values": [2e6],
            "sizes_bytes": [100],
        },
        ("live",),
    ),
    "live_rates.rates": Trial(
        ROUTE | {"rates": "measured"},
        ROUTE_OTHERS | {"rates": "known", "slowdown": 2.0, "settling": 1, "transfers": 5, "check_s": 1.0},
        ("live",),
    ),
    "live_route.steady": Trial(ROUTE, ROUTE_OTHERS, ("live",)),
    "nonlinear.labeller": Trial(
        {"steps": 4, "features": 3, "hidden": 3, "classes": 2, "nodes": 2, "boundaries": 5, "draws": 1},
        {"steps": 5, "features": 4, "hidden": 4, "cells": 2, "classes": 3, "nodes": 3, "draws": 2, "boundaries": 6},
    ),
    "nonlinear.two_step_game": Trial(
        {"updates": 20, "merge_every": 10}, {"mixing": "vdn", "updates": 40, "merge_every": 5}, ("in-process",)
    ),
    "pipeline.chain": Trial(CHAIN, COMPARED, ("in-process", "live"), "digits"),
    "split_search.figure2": Trial({}, {}),
    "speed.in_turn": Trial(
        SMALL | {"steps": 4, "rounds": 1},
        LEARNING | {"steps": 5, "rounds": 2, "nodes": 3},
        ("in-process",),
        "digits",
    ),
    "split_search.printed": Trial({"chains": 10, "nodes": 3, "layers": 5}, {"chains": 20, "nodes": 4, "layers": 8}),
    "split_search.sizes": Trial(
        {"model": SMALL_CNN, "side": 32, "nodes": 3},
        {
            "model": "user_models:Everything",
            "side": 16,
            "input": {"shape": [3, 16, 16]},
            "nodes": 4,
        },
    ),
    "split_search.speed": Trial(
        {"repeats": 1, "update_layers": 5, "central": [2, 4], "graph": [2, 4]},
        {"repeats": 2, "update_layers": 6, "central": [3, 4], "graph": [2, 5]},
    ),
    "split_search.two_edges": Trial({}, {}),
    "transport.hop": Trial(
        {"sizes_bytes": [64]}, {"sizes_bytes": [128], "hops": 3, "warmup": 2, "loop": "asyncio"}, ("live",)
    ),
}
