"""Agents and the mixer in the cloud, who learn by messages, beside the same learning in one graph of autograd."""

import copy
from itertools import product

import pytest
import torch

from nodes.agents.messaging import learn, learn_together, mix
from nodes.agents.qmix import Agent, LearningAgent, LearningMixer, Mixer
from nodes.errors import ProtocolError
from nodes.wire.channel import memory_pair
from nodes.wire.messages import Gradient, Heartbeat

PAYOFF = {(0, *chosen): 7.0 for chosen in product((0, 1), repeat=2)}
PAYOFF |= {(1, 0, 0): 0.0, (1, 0, 1): 1.0, (1, 1, 0): 1.0, (1, 1, 1): 8.0}


def test_qmix_finds_the_joint_optimum_where_vdn_settles_for_the_safe_game():
    assert learn_together("qmix", seed=1).joint_return == 8
    assert learn_together("vdn", seed=1).joint_return == 7


def in_one_graph(seed: int, updates: int, merge_every: int) -> list[dict[str, torch.Tensor]]:
    """QMIX with a copy of the network for each agent, episode by episode, all in one graph and no message."""
    torch.manual_seed(seed)
    network, mixer = Agent(5, 32, 2), Mixer(2, 3, 32)
    agents = [copy.deepcopy(network) for _ in range(2)]
    target = copy.deepcopy(network), copy.deepcopy(mixer)
    optimizer = torch.optim.Adam([p for part in (*agents, mixer) for p in part.parameters()], lr=0.01)
    one = torch.eye(3)
    for update in range(1, updates + 1):
        errors = []
        for episode in product((0, 1), repeat=4):  # first choices of both, then second ones
            game = episode[0]
            own, ahead = [], []
            for who in (0, 1):
                seen = [torch.cat([one[state], torch.eye(2)[who]])[None] for state in (0, 1 + game)]
                first, memory = agents[who](seen[0])
                second, _ = agents[who](seen[1], memory)
                own.append((first[0, episode[who]], second[0, episode[2 + who]]))
                _, memory = target[0](seen[0])
                ahead.append(target[0](seen[1], memory)[0].max().detach())
            best = target[1](torch.stack(ahead)[None], one[1 + game][None]).detach()
            for step, goal, state in ((0, 0.99 * best, 0), (1, PAYOFF[game, episode[2], episode[3]], 1 + game)):
                mixed = mixer(torch.stack([values[step] for values in own])[None], one[state][None])
                errors.append((mixed - goal) ** 2)
        optimizer.zero_grad()
        (2 * torch.cat(errors).mean()).backward()  # two errors an episode
        optimizer.step()
        if update % merge_every == 0:
            one_state, other_state = (agent.state_dict() for agent in agents)
            means = {name: (tensor + other_state[name]) / 2 for name, tensor in one_state.items()}
            for part in (*agents, target[0]):
                part.load_state_dict(means)
            target[1].load_state_dict(mixer.state_dict())
    return [agent.state_dict() for agent in agents]


def test_apart_agents_learn_what_they_would_in_one_graph():
    apart = learn_together("qmix", seed=4, updates=7, merge_every=3).agents
    for agent, expected in zip(apart, in_one_graph(4, 7, 3), strict=True):
        for name, tensor in agent.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5)
    first, second = (agent.state_dict() for agent in apart)
    assert not torch.equal(first["value.weight"], second["value.weight"])  # one update after the last merge


def test_parameters_cross_whole_at_every_merge_and_are_the_same_for_all_then():
    learned = learn_together("qmix", seed=1, updates=6, merge_every=2)
    state = learned.agents[0].state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in learned.agents[1].state_dict().items())
    for ends in learned.channels:
        for end in ends:
            assert end.sent["parameters"].messages == 3
            assert end.sent["parameters"].payload_bytes == 3 * sum(tensor.nbytes for tensor in state.values())


def test_learning_draws_from_its_own_seed_alone():
    before = torch.get_rng_state()
    one, other = (learn_together("vdn", seed=2, updates=3).agents[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


async def test_what_is_no_gradient_nor_value_is_refused():
    ours, theirs = memory_pair("agent0", "cloud")
    agent = LearningAgent(0, Agent(5, 4, 2))
    await theirs.send(Heartbeat(node="cloud"))
    with pytest.raises(ProtocolError, match="cloud: got Heartbeat, expected"):
        await learn(agent, ours, updates=1, merge_every=1)
    await ours.send(Gradient(assignment=0, step=0, tensors={}))
    await theirs.receive()  # the agent's values
    with pytest.raises(ProtocolError, match="agent0: got Gradient, expected"):
        await mix(LearningMixer("vdn", 4), [theirs], updates=1, merge_every=1)
