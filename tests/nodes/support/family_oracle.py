"""Many clients that train one network, in plain PyTorch and numpy: nothing of the product but what it documents.

Rules that are documented (docs/data.md, docs/edge_sl.md) and restated here:

- equal random parts: numpy's default generator of the seed permutes the pictures, whose runs, as equal as they can be
  and each sorted, are the clients';
- order: in its epoch e client k permutes its pictures by the generator of (1, seed, e, k), client 0 by that of
  (1, seed, e); batches are runs of it, and what does not fill one is left out until the next epoch;
- augmentation: batch n of that epoch draws from (2, seed, e, n, k), client 0 from (2, seed, e, n): first the top and
  the left of all crops out of nine places each, then for all pictures a number that mirrors them below a half;
- EPSL through one client: u is the first eight bytes of BLAKE2b, a little-endian number halved, over 2^63, of the
  little-endian 64-bit numbers seed, step of the first client, 2^33 and position; the client is the first in order
  up to which the shares sum to more than u.
"""

import copy
import hashlib
import itertools
import math
import struct
from pathlib import Path

import numpy as np
import torch
from federations import assert_close
from torch import nn
from torch.nn import functional as F

from nodes.data.images import Dataset, Pictures
from nodes.federated.in_process import LocalFederation, workers
from nodes.runtime.local import run_here
from nodes.spec.federation import Federation
from nodes.spec.job import Job, OptimizerSpec, StageSpec
from nodes.wire.messages import EdgeUpdate

SIDE, CLASSES, SEED = 6, 4, 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CUT = 2  # modules of a client
Tensors = dict[str, torch.Tensor]


def still(classes: int = CLASSES) -> nn.Module:
    """Nothing draws or normalises."""
    return nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 6), nn.Tanh(), nn.Linear(6, classes)
    )


def normed(classes: int = CLASSES) -> nn.Module:
    """Batch norm in front of the server's other layers, and in the client's part."""
    return nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, classes)
    )


def drawn_data(count: int = 40, tests: int = 8) -> Dataset:
    """Pictures of noise, each class darker or brighter than the others."""
    generator = np.random.default_rng(11)

    def some(size: int) -> Pictures:
        labels = generator.integers(0, CLASSES, size)
        pixels = generator.integers(0, 180, (size, SIDE, SIDE, 3)) + 25 * labels[:, None, None, None]
        return Pictures(pixels.astype(np.uint8), labels, MEAN, STD)

    return Dataset("noise", tuple(map(str, range(CLASSES))), some(count), some(tests))


class Family:
    """Clients and server parts, by number; ``server`` is that of all, unless steps say otherwise."""

    def __init__(self, federation: Federation, data: Dataset, servers: int = 1) -> None:
        self.federation, self.job = federation, federation.job
        whole = {"still": still, "normed": normed}[str(self.job.model).partition(":")[2]]()
        whole.load_state_dict(torch.load(self.job.weights))
        whole.train()
        self.images, self.labels = np.asarray(data.train.images), data.train.labels
        order = np.random.default_rng(self.job.seed).permutation(len(self.labels))
        self.parts = [np.sort(part) for part in np.array_split(order, federation.clients)]
        if federation.clients == 1:
            self.parts = [np.arange(len(self.labels))]
        self.clients = [copy.deepcopy(whole[:CUT]) for _ in self.parts]
        self.servers = [copy.deepcopy(whole[CUT:]) for _ in range(servers)]
        self.own = [self._optimizer(part) for part in self.clients]
        self.theirs = [self._optimizer(part) for part in self.servers]
        self.taken = [0] * len(self.parts)  # steps

    def _optimizer(self, part: nn.Module) -> torch.optim.Optimizer:
        spec = self.job.optimizer
        return torch.optim.SGD(part.parameters(), spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)

    def samples(self, client: int) -> int:
        return len(self.parts[client])

    def indices(self, client: int, number: int) -> np.ndarray:
        """The pictures of a client's batch, of all that it ever takes."""
        size, (epoch, batch) = self.job.batch_size, self._epoch(client, number)
        seed = (1, self.job.seed, epoch) if client == 0 else (1, self.job.seed, epoch, client)
        return np.random.default_rng(seed).permutation(self.parts[client])[batch * size : (batch + 1) * size]

    def _epoch(self, client: int, number: int) -> tuple[int, int]:
        return divmod(number, len(self.parts[client]) // self.job.batch_size)

    def batch(self, client: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = self.indices(client, number)
        pictures = [self.images[one].astype(np.float64) for one in chosen]
        if self.job.data.augment:
            seed = (2, self.job.seed, *self._epoch(client, number), *([client] if client else []))
            generator = np.random.default_rng(seed)
            tops, lefts = generator.integers(0, 9, (2, len(chosen)))
            mirrored = generator.random(len(chosen)) < 0.5
            for place, (top, left) in enumerate(zip(tops, lefts, strict=True)):
                wide = np.zeros((SIDE + 8, SIDE + 8, 3))
                wide[4 : 4 + SIDE, 4 : 4 + SIDE] = pictures[place]
                crop = wide[top : top + SIDE, left : left + SIDE]
                pictures[place] = crop[:, ::-1] if mirrored[place] else crop
        values = (np.stack(pictures) / 255 - MEAN) / STD
        images = torch.from_numpy(values.transpose(0, 3, 1, 2).copy()).float()
        return images, torch.from_numpy(self.labels[chosen])

    def joint(self, group: list[int] | None = None, server: int = 0, a: int = 0, through: str = "psl") -> None:
        """One step of ``group`` and a server; the last-layer gradients of the first ``a`` positions are averaged."""
        group = list(range(len(self.parts))) if group is None else group
        total = sum(self.samples(client) for client in group)
        shares = [self.samples(client) / total for client in group]
        drawn = [self.batch(client, self.taken[client]) for client in group]
        smashed = [self.clients[client](images) for client, (images, _) in zip(group, drawn, strict=True)]
        leaves = torch.stack([one.detach() for one in smashed]).requires_grad_()  # M, b, ...
        size, step = self.job.batch_size, self.taken[group[0]] * len(self.parts) + group[0]
        labels = torch.stack([answers for _, answers in drawn])
        serve = self._with_constants if through == "one" and a and len(group) > 1 else nn.Module.__call__
        logits = serve(self.servers[server], leaves.flatten(0, 1)).view(len(group), size, -1)
        z = (logits.softmax(2) - F.one_hot(labels, CLASSES)).detach() / size
        mean = sum(share * one for share, one in zip(shares, z, strict=True))
        back = torch.stack([share * one for share, one in zip(shares, z, strict=True)])
        for j in range(a):
            chosen = drawn_client(self.job.seed, step, j, shares)
            for i, share in enumerate(shares):
                if through in ("each", "each broadcast"):
                    back[i, j] = share * mean[j]
                elif through == "one":
                    back[i, j] = mean[j] if i == chosen else 0.0
        logits.backward(back)
        returned = [gradient / share for gradient, share in zip(leaves.grad, shares, strict=True)]
        for j in range(a if through in ("one", "cut", "each broadcast") else 0):
            for one in returned:
                one[j] = leaves.grad[:, j].sum(0)
        for client, one, gradient in zip(group, smashed, returned, strict=True):
            one.backward(gradient)
            self._step(self.own[client])
            self.taken[client] += 1
        self._step(self.theirs[server])

    @staticmethod
    def _with_constants(server: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Batch norm, which may come first, by the batch's statistics as if they did not depend on it."""
        modules = list(server)
        if isinstance(norm := modules[0], nn.BatchNorm2d):
            samples = x.detach().transpose(0, 1).flatten(1)
            mean, variance, count = samples.mean(1), samples.var(1, unbiased=False), samples.shape[1]
            norm.running_mean += 0.1 * (mean - norm.running_mean)
            norm.running_var += 0.1 * (variance * count / (count - 1) - norm.running_var)
            norm.num_batches_tracked += 1
            shape = (1, -1, 1, 1)
            x = (x - mean.view(shape)) / (variance + norm.eps).sqrt().view(shape)
            x = x * norm.weight.view(shape) + norm.bias.view(shape)
            modules = modules[1:]
        return nn.Sequential(*modules)(x)

    def alone(self, client: int, server: int) -> None:
        """One step of a client with a server part."""
        images, labels = self.batch(client, self.taken[client])
        F.cross_entropy(self.servers[server](self.clients[client](images)), labels).backward()
        self._step(self.own[client])
        self._step(self.theirs[server])
        self.taken[client] += 1

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad()


def drawn_client(seed: int, step: int, position: int, shares: list[float]) -> int:
    digest = hashlib.blake2b(struct.pack("<4q", seed, step, 2**33, position), digest_size=8).digest()
    u = (int.from_bytes(digest, "little") // 2) / 2**63
    return next(
        client for client, total in enumerate(itertools.accumulate(shares)) if total > u or math.isclose(total, 1)
    )


def mean_of(modules: list[nn.Module], weights: list[float]) -> Tensors:
    """The weighted mean of their parameters and buffers; counts are rounded."""
    states = [module.state_dict() for module in modules]
    means = {}
    for name, first in states[0].items():
        value = sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True)) / sum(weights)
        means[name] = (value if first.is_floating_point() else value.round()).to(first.dtype)
    return means


def federation_of(folder: Path, model: str, scheme, job: dict | None = None, **changes) -> Federation:
    """Three clients that begin with random weights, kept in ``folder``; steps of batches of four."""
    torch.manual_seed(2)
    path = folder / f"{model}.pt"
    torch.save({"still": still, "normed": normed}[model]().state_dict(), path)
    whole = Job(
        model=f"family_oracle:{model}",
        input_shape=(3, SIDE, SIDE),
        classes=CLASSES,
        nodes=("client", "edge"),
        splits=(CUT,),
        stages=(StageSpec(),),
        threads=1,
        seed=SEED,
        weights=str(path),
        **{"batch_size": 4, "optimizer": OptimizerSpec(lr=0.1, momentum=0.9, weight_decay=1e-3)} | (job or {}),
    )
    return Federation(job=whole, scheme=scheme, **{"clients": 3, "rounds": 2, "local_steps": 5} | changes)


def trained_states(federation: Federation, data: Dataset) -> tuple[list[Tensors], list[Tensors]]:
    """The states of all clients and of all edge servers after the product has trained."""
    made = workers(federation, data)
    run_here(LocalFederation(federation, made).run(), 1)
    clients = [made[name][1].segment.state() for name in federation.client_names]
    return clients, [made[name][1].give(EdgeUpdate(round=0, samples=1)).server for name in federation.edge_names]


def states(parts: list[nn.Module]) -> list[Tensors]:
    return [part.state_dict() for part in parts]


def assert_trained_as(oracle: Family, federation: Federation, data: Dataset) -> None:
    """The clients and the one edge server of ``federation`` come to the oracle's parts."""
    clients, (server,) = trained_states(federation, data)
    pairs = [*zip(clients, states(oracle.clients), strict=True), (server, oracle.servers[0].state_dict())]
    for found, expected in pairs:
        assert_close(found, expected)
