"""What does this machine have for the benchmarks? What cannot be seen is unknown, None."""

import os
from pathlib import Path
from typing import Any

from bench import conditions

Facts = dict[str, Any]


def examine(data_dir: Path | None) -> Facts:
    """Python and packages, machine, kernel's link shaping, GPU, and the data sets found in ``data_dir``."""
    return {
        "versions": conditions.versions(),
        "machine": conditions.machine(),
        "root": os.geteuid() == 0,
        "kernel": {"netem": conditions.kernel_has("netem"), "tbf": conditions.kernel_has("tbf")},
        "gpu": _gpu(),
        "data": None if data_dir is None else str(data_dir),
        "data_sets": _data_sets(data_dir),
    }


def _gpu() -> str | None:
    """Its name; None where torch finds none."""
    if not conditions.cuda_available():
        return None
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name()


def _data_sets(data_dir: Path | None) -> dict[str, str]:
    """ "found", or what is missing, by data set."""
    from nodes import data  # noqa: PLC0415

    found = {}
    for name in data.names():
        try:
            data.check(name, data_dir)
            found[name] = "found"
        except ValueError as error:
            found[name] = str(error).removeprefix(f"{name}: ")
    return found


def as_lines(facts: Facts) -> list[str]:
    """``facts`` for a person."""
    machine, kernel = facts["machine"], facts["kernel"]
    shaping = ", ".join(f"{name} {_known(there)}" for name, there in kernel.items())
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in facts["versions"].items())
    return [
        f"machine   {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB",
        f"system    {machine['system']}, {'root' if facts['root'] else 'not root'}",
        f"versions  {versions}",
        f"kernel    {shaping} (only for --shaping kernel; emulated shaping works everywhere)",
        f"gpu       {facts['gpu'] or 'none'}",
        f"data      {facts['data'] or 'no folder; give --data DIR or set BENCH_DATA'}",
        *(f"  {name:<13} {state}" for name, state in facts["data_sets"].items()),
    ]


def _known(there: bool | None) -> str:
    return "unknown" if there is None else "yes" if there else "no"
