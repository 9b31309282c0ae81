"""Leakage of pictures through smashed data: distance correlation, SSIM, and an inversion attack.

The inversion decoder is what an honest-but-curious server can train on pairs (smashed data, picture) of its own. Its
result is a lower bound; a better attacker sees more.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5  # pixels, of SSIM's Gaussian
K1, K2 = 0.01, 0.03
FIRST = 4  # pixels along a side of the map to which the decoder expands features
WIDTH = 16  # channels of the decoder
RATE, BATCH = 4e-3, 32  # initial learning rate of the decoder, and its batch size


def distance_correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Distance correlation of samples ``x`` (N, ...) and ``y`` (N, ...), N of at least 4: 0 to 1.

    Unbiased: the root of the bias-corrected squared distance correlation of Szekely and Rizzo 2014, Definition 2
    (U-centred distances), and 0 where that is negative. The V-statistic of Szekely, Rizzo and Bakirov 2007, Eq. 2.8 to
    2.10, goes to 1 for independent samples too as their dimension grows, and pictures have many. 0 for a constant.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"distance correlation: {len(x)} and {len(y)} samples, expected equal numbers of at least 4")
    a, b = _centred(x), _centred(y)
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum().div(scale).clamp(0, 1).sqrt()) if scale > 0 else 0.0


def _centred(samples: torch.Tensor) -> torch.Tensor:
    flat = samples.reshape(len(samples), -1).double()
    far = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    n = len(far)
    rows = far.sum(0) / (n - 2)
    centred = far - rows[:, None] - rows[None, :] + far.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0.0)


def ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Structural similarity (N,) of pictures (N, C, H, W) with pixels in [0, 1], H and W of at least ``WINDOW``.

    Wang, Bovik, Sheikh and Simoncelli 2004, Eq. 13, with their window (11x11, sigma 1.5), K1 and K2; the mean over
    the places where the window lies within the picture, and over the channels.
    """
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM: got pictures of {list(x.shape[2:])} pixels, expected at least {WINDOW} a side")
    places = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    bell = (-places.square() / (2 * SIGMA**2)).exp()
    window = torch.outer(bell, bell)[None, None] / bell.sum() ** 2

    def local(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values.flatten(0, 1)[:, None], window).view(*x.shape[:2], -1)

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x.square(), local(y * y) - mean_y.square()
    both = local(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    alike = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return (alike / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))).mean((1, 2))


class InversionDecoder(nn.Module):
    """Reconstructs pictures (N, ``channels``, ``side``, ``side``) from data like ``smashed``, (N, C, H, W) or (N, F).

    Transposed convolutions of ``WIDTH`` channels double feature maps until they are as large as the picture. Beside
    them one convolution maps directly to pixels, for smashed data that still is a picture. Features are first expanded
    to a small map by a linear layer. Inputs are standardised by the statistics of ``smashed``, channel by channel. The
    output is not clamped to [0, 1].
    """

    def __init__(self, smashed: torch.Tensor, channels: int, side: int) -> None:
        super().__init__()
        others = [0, *range(2, smashed.ndim)]
        shape = [1, -1, *[1] * (smashed.ndim - 2)]
        self.register_buffer("mean", smashed.mean(others).view(shape))
        self.register_buffer("scale", smashed.std(others, correction=0).clamp_min(1e-6).view(shape))
        self.spread: nn.Module = nn.Identity()
        first = smashed.shape[1:]
        if smashed.ndim == 2:
            first = torch.Size([WIDTH, FIRST, FIRST])
            self.spread = nn.Sequential(nn.Linear(smashed.shape[1], first.numel()), nn.Unflatten(1, first))
        layers: list[nn.Module] = [nn.Conv2d(first[0], WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(math.ceil(math.log2(max(1.0, side / first[1])))):
            layers += [nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(WIDTH, channels, 3, padding=1), nn.Upsample((side, side)))
        self.straight = nn.Sequential(nn.Conv2d(first[0], channels, 3, padding=1), nn.Upsample((side, side)))

    def forward(self, smashed: torch.Tensor) -> torch.Tensor:
        """The pictures, not clamped."""
        maps = self.spread((smashed - self.get_buffer("mean")) / self.get_buffer("scale"))
        pictures: torch.Tensor = self.body(maps) + self.straight(maps)
        return pictures


def train_inversion_decoder(
    smashed: torch.Tensor, pictures: torch.Tensor, *, epochs: int, seed: int
) -> InversionDecoder:
    """Train a decoder on pairs of ``smashed`` (N, ...) and ``pictures`` (N, C, S, S) with pixels in [0, 1].

    Adam on the mean squared error, with a cosine schedule down to 0. Draws depend on ``seed`` alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = InversionDecoder(smashed.cpu(), pictures.shape[1], pictures.shape[2]).to(smashed.device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(decoder.parameters(), RATE, fused=True)
    steps = epochs * -(-len(pictures) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    orders = (torch.split(torch.randperm(len(pictures), generator=generator), BATCH) for _ in range(epochs))
    for some in itertools.chain.from_iterable(orders):
        loss = F.mse_loss(decoder(smashed[some]), pictures[some])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return decoder


def invert(decoder: InversionDecoder, smashed: torch.Tensor) -> torch.Tensor:
    """Reconstructions (N, C, S, S) of the pictures behind ``smashed`` (N, ...), pixels in [0, 1]."""
    with torch.no_grad():
        return torch.cat([decoder(some).clamp(0, 1) for some in torch.split(smashed, 256)])


def mean_picture(pictures: torch.Tensor, count: int) -> torch.Tensor:
    """The guess without any smashed data: ``count`` times the mean of ``pictures`` (N, C, S, S)."""
    return pictures.mean(0, keepdim=True).expand(count, -1, -1, -1)


def mean_squared_error(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).square().mean())
