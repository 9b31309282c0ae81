"""QMIX and VDN: agents that learn a joint action value, mixed in the cloud, for a two-step game.

Rashid et al., 2018 (HiveMind, sections VI-B and VII-E): agents share a recurrent network; a mixer in the cloud
combines their action values into one that increases with each of them. Hypernetworks compute its weights from the
state. In the two-step game of that paper, whose episodes are all enumerated, the first agent's first action chooses
one of two games: one always pays 7, the other 0, 1, 1 or 8.

Each agent has its own copy of the network and learns from the gradients of its own values. Copies are merged
periodically; the merged network is the target of Q-learning from then on. ``nodes.agents.messaging`` moves values,
gradients and parameters between agents and mixer.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

AGENTS, ACTIONS, STATES = 2, 2, 3
PAYOFF = torch.tensor([[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])  # game, actions
DISCOUNT = 0.99
CHOICES = torch.cartesian_prod(*[torch.arange(ACTIONS)] * (2 * AGENTS)).view(-1, 2, AGENTS)  # episode, step, agent
GAMES = CHOICES[:, 0, 0]
REWARDS = PAYOFF[GAMES, CHOICES[:, 1, 0], CHOICES[:, 1, 1]]
LEARNING_RATE = 0.01


class Agent(nn.Module):
    """Action values from observation and memory: linear, GRU cell, linear."""

    def __init__(self, observation: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.see = nn.Linear(observation, hidden)
        self.remember = nn.GRUCell(hidden, hidden)
        self.value = nn.Linear(hidden, actions)

    def forward(self, observation: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, observation), (N, hidden) to the actions' values (N, actions) and the new memory (N, hidden)."""
        memory = self.remember(torch.relu(self.see(observation)), memory)
        return self.value(memory), memory


class Mixer(nn.Module):
    """Monotonic mixer of the agents' values, with weights computed from the state."""

    def __init__(self, agents: int, state: int, hidden: int) -> None:
        super().__init__()
        self._shape = (agents, hidden)
        self.first = nn.Linear(state, agents * hidden)
        self.first_bias = nn.Linear(state, hidden)
        self.second = nn.Linear(state, hidden)
        self.second_bias = nn.Sequential(nn.Linear(state, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """(N, agents) and (N, state) to (N,)."""
        first = self.first(state).abs().view(-1, *self._shape)
        hidden: Tensor = nn.functional.elu((values[:, None] @ first)[:, 0] + self.first_bias(state))
        bias: Tensor = self.second_bias(state)[:, 0]
        weights: Tensor = self.second(state).abs()
        return (hidden * weights).sum(1) + bias


class Sum(nn.Module):
    """The mixer of VDN: the sum of the agents' values."""

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """(N, agents) and (N, state) to (N,)."""
        return values.sum(1)


class LearningAgent:
    """One agent: its copy of the network, the last merged one as target, and its own optimizer."""

    def __init__(self, index: int, network: Agent) -> None:
        self.network = copy.deepcopy(network)
        self._index = index
        self._target = copy.deepcopy(network).requires_grad_(False)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        self._taken = torch.empty(0)

    def values(self) -> tuple[Tensor, Tensor]:
        """Values of its own choices in each episode (N, 2), and of the best second choice by the target (N,)."""
        first, second = _seen(self.network, self._index)
        own = CHOICES[:, :, self._index]
        self._taken = torch.stack([_chosen(first, own[:, 0]), _chosen(second, own[:, 1])], 1)
        _, ahead = _seen(self._target, self._index)
        return self._taken.detach(), ahead.max(1).values

    def learn(self, gradient: Tensor) -> None:
        """Take an optimizer step by the ``gradient`` (N, 2) of the last values."""
        self._optimizer.zero_grad()
        torch.autograd.backward(self._taken, gradient)
        self._optimizer.step()

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Load merged parameters, which also become the target."""
        self.network.load_state_dict(state)
        self._target.load_state_dict(state)


class LearningMixer:
    """The mixer in the cloud and its optimizer."""

    def __init__(self, mixing: Literal["qmix", "vdn"], hidden: int) -> None:
        self.mixer: nn.Module = Mixer(AGENTS, STATES, hidden) if mixing == "qmix" else Sum()
        parameters = list(self.mixer.parameters())
        self._optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE) if parameters else None
        self.retarget()

    def retarget(self) -> None:
        """Use a copy of the present mixer for targets from now on."""
        self._target = copy.deepcopy(self.mixer).requires_grad_(False)

    def learn(self, taken: Sequence[Tensor], best: Sequence[Tensor]) -> list[Tensor]:
        """One update by the values of each agent; returns the gradients (N, 2) of their ``taken`` values."""
        values = torch.stack(list(taken), 2).requires_grad_()  # episode, step, agent
        first, second = (_one_hot(state) for state in _states())
        ahead = self._target(torch.stack(list(best), 1), second)
        errors = self.mixer(values[:, 0], first) - DISCOUNT * ahead, self.mixer(values[:, 1], second) - REWARDS
        self.mixer.zero_grad()
        torch.autograd.backward((errors[0] ** 2 + errors[1] ** 2).mean())
        if self._optimizer is not None:
            self._optimizer.step()
        assert values.grad is not None
        return list(values.grad.unbind(2))


def greedy_return(agents: Sequence[Agent]) -> float:
    """Return of the game if each agent takes its own best action, without knowing the others'."""
    with torch.no_grad():
        memories, game = [], 0
        for index, agent in enumerate(agents):
            values, memory = agent(_observation(torch.tensor([0]), index))
            memories.append(memory)
            game = int(values.argmax()) if index == 0 else game
        state = torch.tensor([1 + game])
        actions = [
            int(agent(_observation(state, index), memory)[0].argmax())
            for index, (agent, memory) in enumerate(zip(agents, memories, strict=True))
        ]
    return float(PAYOFF[(game, *actions)])


def parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _states() -> tuple[Tensor, Tensor]:
    """The state (N,) of each episode in its first and its second step."""
    return torch.zeros_like(GAMES), 1 + GAMES


def _one_hot(state: Tensor) -> Tensor:
    return nn.functional.one_hot(state, STATES).float()


def _observation(state: Tensor, index: int) -> Tensor:
    """Observation (N, states + agents) of agent ``index``: the ``state`` (N,) and its index, one-hot."""
    who = nn.functional.one_hot(torch.tensor(index), AGENTS).float()
    return torch.cat([_one_hot(state), who.expand(len(state), -1)], 1)


def _seen(agent: Agent, index: int) -> tuple[Tensor, Tensor]:
    """Action values (N, actions) of agent ``index`` in both steps of each episode."""
    first, second = _states()
    values, memory = agent(_observation(first, index))
    after, _ = agent(_observation(second, index), memory)
    return values, after


def _chosen(values: Tensor, action: Tensor) -> Tensor:
    """(N, actions) and (N,) to (N,)."""
    return values.gather(1, action[:, None])[:, 0]
