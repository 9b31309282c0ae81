"""Batch-wise compression by circular convolution: each sample is bound to a key, and the results are added.

C3-SL (Hsieh et al., 2022; DynSplit, related work). ``ratio`` samples make one vector of the same length. Correlation
with a key restores its sample; the others add noise, which is small because random keys are nearly orthogonal.
"""

import torch


def keys(ratio: int, length: int) -> torch.Tensor:
    """(ratio, length) random keys, normal with variance 1 / length, of unit length: drawn from torch's generator."""
    return torch.nn.functional.normalize(torch.randn(ratio, length) / length**0.5)


def bind(samples: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(N, D) -> (ceil(N / R), D): groups of R samples, each convolved with its row of ``key`` (R, D), added."""
    ratio, length = key.shape
    padded = torch.nn.functional.pad(samples, (0, 0, 0, -len(samples) % ratio)).view(-1, ratio, length)
    bound: torch.Tensor = torch.fft.irfft((torch.fft.rfft(padded) * torch.fft.rfft(key)).sum(1), n=length)
    return bound


def unbind(bound: torch.Tensor, key: torch.Tensor, count: int) -> torch.Tensor:
    """The samples (``count``, D) given to ``bind``, as far as correlation with ``key`` restores them."""
    length = key.shape[1]
    spectrum = torch.fft.rfft(bound)[:, None] * torch.fft.rfft(key).conj()
    found: torch.Tensor = torch.fft.irfft(spectrum, n=length)
    return found.flatten(0, 1)[:count]
