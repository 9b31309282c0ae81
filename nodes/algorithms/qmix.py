"""How do agents learn to act together when one value of their joint action is mixed in the cloud? QMIX, and VDN.

Rashid et al., 2018 (HiveMind, sections VI-B and VII-E): agents share a recurrent network; a mixer, which stays in
the cloud, makes of their actions' values one that grows with each of them. Its weights come from hypernetworks
that see the state. Trained here on the two-step game of that paper, all of whose episodes are enumerated: first
agent's first action chooses a game, of which the one pays 7 whatever is done and the other 0, 1, 1 or 8.
"""

import copy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

AGENTS, ACTIONS, STATES = 2, 2, 3
PAYOFF = torch.tensor([[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])  # game, actions
DISCOUNT = 0.99


class Agent(nn.Module):
    """Action values from what the agent sees and remembers: linear, GRU cell, linear."""

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
    """One value of the agents' values that never falls as one of theirs rises; its weights depend on the state."""

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


class Learned(NamedTuple):
    """What training came to. ``agent`` is every agent's network."""

    agent: Agent
    mixer: nn.Module
    joint_return: float  # of the greedy joint policy, not discounted


def train(mixing: Literal["qmix", "vdn"], seed: int, updates: int = 300, hidden: int = 32) -> Learned:
    """Learn the two-step game from all its episodes at once, as endless exploration would see them.

    Q-learning towards a copy of the networks taken every 50 updates. Leaves torch's generator as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = Agent(STATES + AGENTS, hidden, ACTIONS)
        mixer = Mixer(AGENTS, STATES, hidden) if mixing == "qmix" else Sum()
    learner = nn.ModuleDict({"agent": agent, "mixer": mixer})
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    choices = torch.cartesian_prod(*[torch.arange(ACTIONS)] * (2 * AGENTS)).view(-1, 2, AGENTS)  # episode, step, agent
    games = choices[:, 0, 0]
    rewards = PAYOFF[games, choices[:, 1, 0], choices[:, 1, 1]]
    target = learner
    for update in range(updates):
        if update % 50 == 0:
            target = copy.deepcopy(learner).requires_grad_(False)
        first, second = _values(learner, games, choices)
        _, best = _values(target, games, None)
        loss = ((first - DISCOUNT * best) ** 2 + (second - rewards) ** 2).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return Learned(agent, mixer, greedy_return(agent))


def greedy_return(agent: Agent) -> float:
    """What the agents earn, each taking the action that it values most, knowing its own values alone."""
    with torch.no_grad():
        values, memory = agent(_observations(torch.tensor([0])))
        game = values.argmax(1)[:1]
        values, _ = agent(_observations(1 + game), memory)
        return float(PAYOFF[(int(game), *values.argmax(1).tolist())])


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the parameters of ``module``."""
    return sum(parameter.nbytes for parameter in module.parameters())


def _values(learner: nn.ModuleDict, games: Tensor, choices: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mixed values of both steps of each episode: of its ``choices`` (N, step, agent), else of the best ones."""
    memory, mixed = None, []
    for step, state in enumerate((torch.zeros_like(games), 1 + games)):
        values, memory = learner["agent"](_observations(state), memory)
        values = values.view(-1, AGENTS, ACTIONS)
        taken = values.max(2).values if choices is None else values.gather(2, choices[:, step, :, None])[:, :, 0]
        mixed.append(learner["mixer"](taken, nn.functional.one_hot(state, STATES).float()))
    return mixed[0], mixed[1]


def _observations(state: Tensor) -> Tensor:
    """What the agents see (N * agents, states + agents): the ``state`` (N,), and who they are."""
    states = nn.functional.one_hot(state, STATES).repeat_interleave(AGENTS, 0)
    return torch.cat([states, torch.eye(AGENTS, dtype=states.dtype).repeat(len(state), 1)], 1).float()
