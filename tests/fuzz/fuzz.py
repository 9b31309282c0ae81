"""Random mutation of what others may give: frames, requests, suites, files. No input ends in anything but our errors.

``python tests/fuzz/fuzz.py --seconds 1800 --seed 7`` runs all targets for as long in all, ``--inputs`` for as many
inputs each; ``--only NAME`` runs one. An input that does more than raise one of its target's errors, allocates more
than the target's cap, or takes longer than ``SLOW_S`` of processor time is written to a file and ends the run with 1.
"""

import argparse
import random
import re
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SLOW_S = 10.0  # of processor time for one input, on a slow machine
MIB = 1 << 20
NUMBER = re.compile(rb"-?\d+(\.\d+)?")
WORDS = (
    *(b"-1", b"0", b"1e999", b"-0.0", b"nan", b".inf", b"NaN", b"Infinity", b"4294967296", b"18446744073709551616"),
    *(b"9" * 400, b"null", b"true", b"[]", b"{}", b'""', b"[[[[[[[[", b"{a: &a [*a]}", b"!!python/object:os.system"),
    *(
        b"\x00",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\xcf",
        b"\xdf\xff\xff\xff\xff",
        b"\n",
        b": ",
    ),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80", b"$.x", b"../" * 20, b"\x1b[2J", b"%s%n", b"\r\n\r\n"),
)


class Target(NamedTuple):
    """Something that reads bytes of others: ``read`` raises one of ``errors``, and allocates at most ``most_bytes``."""

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    most_bytes: int = 64 * MIB
    mend: Callable[[bytes], bytes] = bytes  # what makes a mutated input come further


class FindingError(AssertionError):
    """An input that did more than it may."""

    def __init__(self, target: Target, data: bytes, why: str) -> None:
        super().__init__(f"{target.name}: {why}; input {data[:200]!r}")
        self.data = data


class Outcome(NamedTuple):
    """What the inputs of one target did."""

    inputs: int
    refused: int
    peak_bytes: int
    slowest_s: float


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of ``seeds``, changed in one to eight places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _change(data, seeds, rng)
    return bytes(data)


def _change(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 64)))
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        case 4:
            data[at:end] = rng.choice(WORDS)
        case 5:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at:end] = other[start : start + rng.choice((4, 32, 256))]
        case 6 if numbers := list(NUMBER.finditer(data)):
            found = rng.choice(numbers)
            data[found.start() : found.end()] = rng.choice(WORDS[:11])
        case _:
            del data[at:]


def fuzz(target: Target, inputs: Iterator[bytes]) -> Outcome:
    """Give ``inputs`` to ``target``. Raises FindingError for the first that does more than it may."""
    count = refused = peak = 0
    slowest_s = 0.0
    tracemalloc.start()
    try:
        for data in inputs:
            count += 1
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            began = time.process_time()
            try:
                target.read(data)
            except target.errors as error:
                refused += 1
                if not str(error):
                    raise FindingError(target, data, f"{type(error).__name__} without a word") from error
            except Exception as error:
                raise FindingError(target, data, f"{type(error).__name__}: {error}") from error
            slowest_s = max(slowest_s, took_s := time.process_time() - began)
            peak = max(peak, used := tracemalloc.get_traced_memory()[1] - before)
            if took_s > SLOW_S:
                raise FindingError(target, data, f"took {took_s:.1f} s")
            if used > target.most_bytes:
                raise FindingError(target, data, f"allocated {used:,} bytes, at most {target.most_bytes:,} are allowed")
    finally:
        tracemalloc.stop()
    return Outcome(count, refused, peak, slowest_s)


def drawn(target: Target, seed: int, count: int | None, seconds: float | None) -> Iterator[bytes]:
    """Mutated inputs of ``target``, the same for a seed: ``count`` of them, or as many as ``seconds`` allow."""
    rng = random.Random(f"{target.name} {seed}")
    began, number = time.monotonic(), 0
    yield from target.seeds
    while (count is None or number < count) and (seconds is None or time.monotonic() < began + seconds):
        number += 1
        yield target.mend(mutated(target.seeds, rng))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, help="of each target")
    parser.add_argument("--seconds", type=float, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="name of a target; may be repeated")
    given = parser.parse_args()
    if given.inputs is None and given.seconds is None:
        parser.error("give --inputs or --seconds")
    from targets import targets  # noqa: PLC0415 (imports torch)

    failed = False
    with tempfile.TemporaryDirectory() as folder:
        chosen = [one for one in targets(Path(folder)) if not given.only or one.name in given.only]
        for target in chosen:
            seconds = None if given.seconds is None else given.seconds / len(chosen)
            try:
                outcome = fuzz(target, drawn(target, given.seed, given.inputs, seconds))
            except FindingError as finding:
                failed, path = True, Path(f"fuzz-{target.name}-{given.seed}.bin")
                path.write_bytes(finding.data)
                print(f"{finding}\n  written to {path}", flush=True)
            else:
                print(
                    f"{target.name}: {outcome.inputs:,} inputs, {outcome.refused:,} refused, "
                    f"peak {outcome.peak_bytes / MIB:.1f} MiB, slowest {outcome.slowest_s:.2f} s",
                    flush=True,
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
