"""Every purpose has a seed of its own, and seeding the fast way draws what torch's own way draws."""

import itertools

import torch

from nodes.seeds import derive, seed_generators


def test_every_purpose_has_a_seed_of_its_own():
    purposes = [p for length in range(4) for p in itertools.product(range(4), repeat=length)]
    seeds = [derive(seed, *purpose) for seed in range(3) for purpose in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_a_seed_stays_what_it_is_from_version_to_version():
    assert derive(0) == 893442142816765029
    assert derive(7, 1, 2, 1 << 32) == 6120281659196307290


def test_generators_seeded_the_fast_way_draw_as_torch_does():
    torch.manual_seed(derive(5))
    expected = torch.randn(3), torch.bernoulli(torch.full((9,), 0.5))
    seed_generators(derive(5))
    assert torch.equal(torch.randn(3), expected[0])
    assert torch.equal(torch.bernoulli(torch.full((9,), 0.5)), expected[1])
