"""Collaborative learning of agents with a mixer in the cloud, by messages over any channels.

HiveMind, section VI-B: every agent trains its own copy of the network on its own observations; periodically all its
parameters go to the cloud, are averaged there, and return. QMIX's mixer stays in the cloud (section VII-E): in each
update the agents' values go to it and their gradients return. The paper does not say what its agents exchange beside
parameters, and how often they merge them.
"""

import asyncio
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import torch

from nodes.agents.qmix import ACTIONS, AGENTS, STATES, Agent, LearningAgent, LearningMixer, greedy_return
from nodes.errors import ProtocolError
from nodes.model.averaging import federated_average
from nodes.wire.channel import Channel, memory_pair
from nodes.wire.messages import Activation, AnyMessage, Gradient, Parameters

HIDDEN = 32  # units of the agents' and the mixer's hidden layers
LAYERS = 3  # of an agent's network
TAKEN, BEST = "taken", "best"  # names of an agent's values

M = TypeVar("M", bound=AnyMessage)


class Learned(NamedTuple):
    """The result of learning. ``channels`` has both ends of each agent's channel, the agent's first."""

    agents: list[Agent]
    mixer: torch.nn.Module
    channels: list[tuple[Channel, Channel]]
    joint_return: float  # of the greedy joint policy, not discounted


def learn_together(mixing: Literal["qmix", "vdn"], seed: int, updates: int = 300, merge_every: int = 50) -> Learned:
    """Learn the two-step game over memory channels. Restores torch's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, mixer = Agent(STATES + AGENTS, HIDDEN, ACTIONS), LearningMixer(mixing, HIDDEN)
    agents = [LearningAgent(index, network) for index in range(AGENTS)]
    channels: list[tuple[Channel, Channel]] = [memory_pair(f"agent{index}", "cloud") for index in range(AGENTS)]

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(mix(mixer, [cloud for _, cloud in channels], updates, merge_every))
            for agent, (channel, _) in zip(agents, channels, strict=True):
                group.create_task(learn(agent, channel, updates, merge_every))

    asyncio.run(run())
    networks = [agent.network for agent in agents]
    return Learned(networks, mixer.mixer, channels, greedy_return(networks))


async def learn(agent: LearningAgent, cloud: Channel, updates: int, merge_every: int) -> None:
    """Run an agent. Raises ProtocolError for an unexpected message of the cloud."""
    for update in range(updates):
        taken, best = agent.values()
        values = {TAKEN: taken, BEST: best}
        await cloud.send(Activation(assignment=0, step=update, train=True, grads=(TAKEN,), tensors=values))
        agent.learn((await _next(cloud, Gradient)).tensors[TAKEN])
        if (update + 1) % merge_every == 0:
            await cloud.send(Parameters(assignment=0, start=0, stop=LAYERS, tensors=agent.network.state_dict()))
            agent.merge((await _next(cloud, Parameters)).tensors)


async def mix(mixer: LearningMixer, agents: Sequence[Channel], updates: int, merge_every: int) -> None:
    """Run the cloud. Raises ProtocolError for an unexpected message of an agent."""
    for update in range(updates):
        values = [(await _next(agent, Activation)).tensors for agent in agents]
        gradients = mixer.learn([own[TAKEN] for own in values], [own[BEST] for own in values])
        for agent, gradient in zip(agents, gradients, strict=True):
            await agent.send(Gradient(assignment=0, step=update, tensors={TAKEN: gradient}))
        if (update + 1) % merge_every == 0:
            states = [(await _next(agent, Parameters)).tensors for agent in agents]
            merged = federated_average(states, [1] * len(states))  # every agent has seen all episodes
            mixer.retarget()
            for agent in agents:
                await agent.send(Parameters(assignment=0, start=0, stop=LAYERS, tensors=merged))


async def _next(channel: Channel, kind: type[M]) -> M:
    message = await channel.receive()
    if not isinstance(message, kind):
        raise ProtocolError(f"{channel.peer}: got {type(message).__name__}, expected {kind.__name__}")
    return message
