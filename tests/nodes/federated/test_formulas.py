"""The formulas of many clients, against autograd and counts by hand."""

import pytest
import torch
from torch.nn import functional as F

from nodes.federated.formulas import aggregated, averaged, back_propagated, fading, may_go_on, own_gradients, shares


def test_last_layer_gradients_are_autograds():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7, requires_grad=True), torch.tensor([0, 6, 2, 2, 5])
    (F.cross_entropy(logits, labels, reduction="sum") / 8).backward()
    torch.testing.assert_close(own_gradients(logits.detach(), labels, 8), logits.grad)


@pytest.mark.parametrize(
    ("phi", "size", "expected"), [(0.0, 8, 0), (1.0, 8, 8), (0.5, 7, 4), (0.1, 64, 7), (0.07, 100, 7), (1e-3, 8, 1)]
)
def test_positions_are_rounded_up_but_not_by_how_floats_multiply(phi, size, expected):
    assert aggregated(phi, size) == expected


def test_back_propagation_is_of_all_clients_but_for_the_averaged_positions():
    assert [back_propagated(clients, 16, 0) for clients in (1, 5)] == [16, 80]
    assert [back_propagated(clients, 16, 4) for clients in (1, 5)] == [16, 64]
    assert [back_propagated(clients, 16, 16) for clients in (1, 5)] == [16, 16]


def test_means_are_weighted():
    values = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, -2.0])]
    assert shares([30, 10]) == [0.75, 0.25]
    assert averaged(values, shares([30, 10])).tolist() == [2.0, 1.0]


def test_stale_updates_count_less_and_who_is_ahead_waits():
    assert [fading(staleness, 0.5) for staleness in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert fading(100, 0.0) == 1.0
    assert [may_go_on(done, 2, 1) for done in (2, 3, 4)] == [True, True, False]
    assert may_go_on(1000, 0, None)
