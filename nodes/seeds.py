"""Where does randomness come from? Every draw's seed is derived from the run's seed and what it is for."""

import hashlib
import struct


def derive(seed: int, *purpose: int) -> int:
    """A 63-bit seed for one purpose, independent of all draws made before it."""
    digest = hashlib.blake2b(struct.pack(f"<{1 + len(purpose)}q", seed, *purpose), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
