"""EPSL's costs over phi against the table of readings, written out: samples, operations, bytes, and a round's time."""

import math

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from bench.experiments.edge_sl.parameters import SchemeChoice
from bench.experiments.edge_sl.shares import AveragedShares, curve
from bench.suite.experiment import Setting
from nodes.zoo.small_cnn import small_cnn

BATCH, PHIS = 8, (0.0, 0.3, 1.0)
CLIENT_FLOPS, SERVER_FLOPS = 1e9, 4e9
HEADERS_BYTES = 200  # a frame's header at most, with the names of its tensors
READINGS = {
    "averaged": {"through": "averaged"},
    "one": {"through": "one"},
    "each": {"through": "each"},
    "each, broadcast": {"through": "each", "broadcast": True},
    "cut": {"through": "cut"},
}


def layers_flops():
    """Operations of one picture in the small CNN's first five layers, and in the others, and the values between."""
    picture, flops, values = torch.zeros(1, 3, 16, 16), [0, 0], 0
    for number, layer in enumerate(small_cnn(10)):
        picture = layer(picture)
        if isinstance(layer, nn.Conv2d):
            flops[number >= 5] += 2 * picture.numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        elif isinstance(layer, nn.Linear):
            flops[number >= 5] += 2 * layer.in_features * layer.out_features
        values = picture.numel() if number == 4 else values
    return *flops, values


def table(reading, clients, phi):
    """Samples that the server takes forward and backward, and that return if what is the same is sent once."""
    a = math.ceil(phi * BATCH - 1e-9)
    each = clients * BATCH
    once = a + clients * (BATCH - a)
    forward = each + (a if reading == "averaged" else 0)
    backward = once if reading in {"averaged", "one"} else each
    return forward, backward, each if reading == "each" else once


@pytest.mark.parametrize("clients", [2, 5])
@pytest.mark.parametrize("reading", READINGS)
def test_costs_over_phi_are_those_of_the_table(reading, clients, context):
    parameters = AveragedShares(
        clients=clients,
        batch_size=BATCH,
        side=16,
        local_steps=1,
        train_samples=BATCH * clients,
        test_samples=clients,
        learn=False,
        client_flops=CLIENT_FLOPS,
        server_flops=SERVER_FLOPS,
        method=SchemeChoice(scheme="epsl", options=READINGS[reading]),
        phis=PHIS,
    )
    assert not [one for one in parameters.problems(Setting("virtual", "none")) if not one.note and not one.unused]
    blank = replace(context, mode="virtual", dataset="none", shaping="emulated")
    found = {(one.metric, one.case["phi"]): one.value for one in curve(parameters, blank)}
    below, above, values = layers_flops()
    for phi in PHIS:
        forward, backward, returned = table(reading, clients, phi)
        assert found["forward_samples_per_update", phi] == forward
        assert found["backward_samples_per_update", phi] == backward
        assert found["server_operations", phi] == above * (forward + 2 * backward)
        seconds = 3 * BATCH * below / CLIENT_FLOPS + above * (forward + 2 * backward) / SERVER_FLOPS
        assert found["round_s", phi] == pytest.approx(seconds, rel=1e-6)
        saved = found["downlink_bytes", phi] - found["downlink_broadcast_bytes", phi]
        assert saved == pytest.approx(4 * values * (clients * BATCH - returned))
        rest = found["downlink_bytes", phi] - 4 * values * clients * BATCH
        assert 0 < rest < 8 * clients * HEADERS_BYTES


@pytest.mark.parametrize("method", [{"scheme": "psl"}, {"scheme": "epsl", "options": {"phi": 0.5}}])
def test_a_method_without_a_share_of_its_own_is_asked_for(method):
    parameters = AveragedShares(learn=False, train_samples=200, test_samples=5, method=SchemeChoice(**method))
    (problem,) = [one for one in parameters.problems(Setting("virtual", "none")) if one.key == ("method",)]
    assert "expected scheme epsl" in problem.message
