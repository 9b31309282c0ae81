"""Seeds of all random draws, derived from the run's seed and the purpose of the draw."""

import hashlib
import struct

import torch


def derive(seed: int, *purpose: int) -> int:
    """A 63-bit seed for one purpose, independent of all draws made before it."""
    digest = hashlib.blake2b(struct.pack(f"<{1 + len(purpose)}q", seed, *purpose), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(seed: int) -> None:
    """Seed torch's CPU and CUDA generators; much faster than ``torch.manual_seed``, which looks for every device."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types here
        for generator in torch.cuda.default_generators:
            generator.manual_seed(seed)
