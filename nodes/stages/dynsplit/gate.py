"""DynSplit's gate, which chooses a path per sample (section IV-B): scores, Gumbel-softmax, losses, schedule, end.

The gate scores each sample's paths; log alpha of Eq. 2 to 4 are these scores, of which only differences count, so
the last path's is 0. In training the largest score plus Gumbel noise wins (Eq. 3), with the gradient of the relaxation
(Eq. 4). At inference the largest score wins; a threshold sets how many samples take the first path. The paper leaves
the gate's layers open. Ours standardises the scores over the batch, so they cannot be equal for all samples.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

TINY = 1e-10  # keeps logarithms finite


class Gate(nn.Module):
    """(N, ``channels``, H, W) -> scores (N, ``paths``); the last path's are 0.

    With a ``spread`` each score has that standard deviation over a batch (at inference by running estimates) around a
    learned offset. It sees mean and deviation of each channel; if it ``convolves``, those of ``hidden`` learned
    features of neighbouring pixels too; with ``exit_classes`` the entropy of an early exit's answer (BranchyNet's
    confidence); and ``told`` more numbers a sample.
    """

    def __init__(
        self,
        channels: int,
        paths: int,
        hidden: int = 16,
        spread: float | None = 2.0,
        convolves: bool = False,
        *,
        exit_classes: int | None = None,
        told: int = 0,
    ) -> None:
        super().__init__()
        self.spread = spread
        seen = 2 * (channels + hidden * convolves) + (exit_classes is not None) + told
        self.features = nn.BatchNorm1d(seen, affine=False)
        self.relevance = nn.Sequential(nn.Linear(seen, hidden), nn.ReLU(), nn.Linear(hidden, paths - 1))
        self.standard = nn.BatchNorm1d(paths - 1, affine=False) if spread else nn.Identity()
        self.offset = nn.Parameter(torch.zeros(paths - 1))
        self.local: nn.Module | None = None
        if convolves:
            neighbours = nn.Conv2d(channels, hidden, 3, stride=2, padding=1)
            self.local = nn.Sequential(neighbours, nn.BatchNorm2d(hidden), nn.ReLU())
        self.exit = nn.Linear(channels, exit_classes) if exit_classes else None

    def early_answer(self, activation: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of the early exit, linear in each channel's mean; no other layer learns from them."""
        assert self.exit is not None
        logits: torch.Tensor = self.exit(activation.detach().mean((2, 3)))
        return logits

    def forward(self, activation: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        maps = [activation] if self.local is None else [activation, self.local(activation)]
        moments = [torch.std_mean(one.flatten(2), dim=2, correction=0)[::-1] for one in maps]
        seen = [moment for both in moments for moment in both]
        if self.exit is not None:
            seen.append(entropy(self.early_answer(activation).detach().softmax(1))[:, None])
        if told is not None:
            seen.append(told)
        relevance: torch.Tensor = self.standard(self.relevance(self.features(torch.cat(seen, dim=1))))
        return nn.functional.pad((self.spread or 1.0) * relevance + self.offset, (0, 1))


def gumbel_noise(uniform: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise from numbers drawn uniformly from [0, 1)."""
    return -torch.log(-torch.log(uniform + TINY) + TINY)


def gumbel_softmax(scores: torch.Tensor, noise: torch.Tensor, temperature: float) -> torch.Tensor:
    """The Gumbel-softmax relaxation (N, n) of Eq. 4; its largest entry is Eq. 3's choice."""
    return torch.softmax((scores + noise) / temperature, dim=1)


def straight_through(soft: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """The gate (N,) of each sample's path ``choice`` (N,): exactly 1, with the gradient of its ``soft`` value."""
    chosen = soft.gather(1, choice[:, None])[:, 0]
    return 1 + (chosen - chosen.detach())


def one_hot(soft: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """The gates (N, n) of all paths: 1 for ``choice`` (N,) and 0 for the others, with the gradient of ``soft``."""
    hard = (choice[:, None] == torch.arange(soft.shape[1], device=soft.device)).to(soft.dtype)
    return hard + (soft - soft.detach())


def fit_to_losses(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit ``scores`` (N, n) to the losses that return: zeros (N, n), whose gradient is each path's share in the loss.

    The second result is a loss term, 0 in the forward pass. Its gradient is that of the mean over the samples of
    sum_i (score_i - (loss_n - loss_i))^2, so a score predicts how much less a path's loss is than the last path's.
    """
    zeros, fit = _Fit.apply(scores)
    return zeros, fit


class _Fit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(scores)
        return torch.zeros_like(scores), scores.new_zeros(())

    @staticmethod
    def backward(ctx: Any, shares: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = ctx.saved_tensors[0]
        gains = shares[:, -1:] - shares  # times ``weight`` / N, as the loss is
        return 2 * (weight / len(scores) * scores - gains)


def observed_shares(soft: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """The batch's observed share (n,) of each path, with the gradient of the mean of ``soft`` (N, n)."""
    return one_hot(soft, choice).mean(0)


def ratio_loss(observed: torch.Tensor, target: torch.Tensor, above_only: bool = False) -> torch.Tensor:
    """Squared distance of the ``observed`` shares (n,) to ``target`` (n - 1,), the last path's being the rest.

    With two paths it is Eq. 5's (target_R - mu_R)^2; with ``above_only`` Eq. 6's max(mu_R - target_R, 0)^2.
    """
    excess = observed[:-1] - target
    return (excess.clamp_min(0) if above_only else excess).square().sum()


def temperature(epoch: int, epochs: int, start: float, end: float) -> float:
    """Geometric schedule from ``start`` in epoch 0 to ``end`` in the last."""
    return start * math.pow(end / start, epoch / max(1, epochs - 1))


def has_converged(losses: Sequence[float], epsilon: float, ratio_error: float = 0.0) -> bool:
    """Whether the mean loss changed by less than ``epsilon`` in the last epoch (Algorithm 1, section IV-C).

    Beyond the paper, ``ratio_error`` must be below it too: in the printed loss the ratio is a small term, which may be
    constant far from its target.
    """
    return len(losses) > 1 and abs(losses[-1] - losses[-2]) < epsilon and abs(ratio_error) < epsilon


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy in nats along the last dimension."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def entropy_of_levels(levels: torch.Tensor, count: int) -> torch.Tensor:
    """Entropy (N,) in nats of how often each of ``count`` levels occurs in the whole numbers (N, ...) of a sample."""
    rows = levels.flatten(1).long()
    occurs = torch.zeros(len(rows), count, device=rows.device)
    occurs = occurs.scatter_add(1, rows, torch.ones_like(rows, dtype=occurs.dtype))
    return entropy(occurs / rows.shape[1])


def mutual_information(probabilities: torch.Tensor) -> float:
    """Mutual information of sample and path, in nats, of path probabilities (N, n): from 0 (all alike) to log n."""
    return float(entropy(probabilities.mean(0)) - entropy(probabilities).mean())


def is_collapsed(observed: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether some path gets less than a tenth of its target share. Both (n,)."""
    return bool((observed < target / 10).any())


def margin(scores: torch.Tensor) -> torch.Tensor:
    """The first path's score minus the best of the others (N,)."""
    return scores[:, 0] - scores[:, 1:].amax(1)


def choose_paths(scores: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """The path (N,) of each sample at inference: the first if its margin exceeds ``threshold``, else the best other."""
    others = 1 + scores[:, 1:].argmax(1)
    return torch.where(margin(scores) > threshold, torch.zeros_like(others), others)


def threshold_for(margins: torch.Tensor, share: float) -> float:
    """The threshold above which ``share`` of ``margins`` lie, rounded to a sample: -inf for all, inf for none."""
    count = round(share * len(margins))
    if count in (0, len(margins)):
        return math.inf if count == 0 else -math.inf
    ordered = margins.sort(descending=True).values
    return float((ordered[count - 1] + ordered[count]) / 2)


def assign_paths(uniform: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Paths (N,) by numbers of [0, 1), which ``target`` (n - 1,) divides into an interval for each path."""
    return torch.bucketize(uniform, target.cumsum(0), right=True)


def evenly_spaced(count: int) -> torch.Tensor:
    """``count`` evenly spaced numbers of [0, 1) in golden-ratio order, for a choice that ignores the samples."""
    golden = (math.sqrt(5) - 1) / 2
    place = (torch.arange(count, dtype=torch.float64) * golden % 1).argsort().argsort()
    return (place + 0.5) / count
