"""Circular convolution against its sum written out."""

import pytest
import torch

from nodes.stages.circular import bind, keys, unbind


def convolved(one, other):
    return [sum(one[j] * other[(i - j) % len(one)] for j in range(len(one))) for i in range(len(one))]


def test_binding_is_the_sum_of_circular_convolutions():
    torch.manual_seed(0)
    key, samples = keys(2, 7), torch.randn(3, 7)
    first = torch.tensor(convolved(samples[0].tolist(), key[0].tolist()))
    second = torch.tensor(convolved(samples[1].tolist(), key[1].tolist()))
    bound = bind(samples, key)
    assert bound.shape == (2, 7)
    assert torch.allclose(bound[0], first + second, atol=1e-5)
    assert torch.allclose(bound[1], torch.tensor(convolved(samples[2].tolist(), key[0].tolist())), atol=1e-5)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_unbinding_finds_each_sample_among_the_others(ratio):
    torch.manual_seed(1)
    key, samples = keys(ratio, 4096), torch.randn(6, 4096)
    found = unbind(bind(samples, key), key, 6)
    likeness = torch.nn.functional.cosine_similarity(found[:, None], samples[None], dim=2)
    assert torch.equal(likeness.argmax(1), torch.arange(6))
    assert likeness.diagonal().min() > 0.9 / (1 + ratio) ** 0.5
