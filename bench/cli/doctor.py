"""``bench doctor``: what this machine has for the benchmarks; None where that is unknown."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from bench.execution import environment as conditions
from bench.suite.document import InputError
from netem.kernel import namespace_owner
from netem.kernel.namespace_network import ShapeError, supported_shapers
from netem.kernel.tc import ShaperKind

Facts = dict[str, Any]


def examine(data_dir: Path | None) -> Facts:
    """Packages, machine, link shaping by the kernel, GPU, and the data sets found in ``data_dir``."""
    return {
        "versions": conditions.versions(),
        "machine": conditions.machine(),
        "root": os.geteuid() == 0,
        "kernel": _kernel(),
        "left": [Path(path).name for path in namespace_owner.orphaned()],
        "gpu": _gpu(),
        "data": None if data_dir is None else str(data_dir),
        **_data_sets(data_dir),
    }


def clean() -> list[str]:
    """Remove the network namespaces that killed runs left and return their names. Raises InputError if not allowed."""
    try:
        return namespace_owner.remove_orphaned()
    except OSError as error:
        raise InputError([f"--clean: {error}; run bench doctor --clean as root"]) from None


def _kernel() -> dict[str, bool | None]:
    """Which packet schedulers can shape links: tried if root, else read from the kernel's configuration."""
    if os.geteuid() == 0:
        with suppress(ShapeError):  # no namespaces, as in many containers
            found = supported_shapers()
            return {kind: kind in found for kind in get_args(ShaperKind)}
        return dict.fromkeys(get_args(ShaperKind), False)
    return {kind: conditions.kernel_has(kind) for kind in get_args(ShaperKind)}


def _gpu() -> str | None:
    if not conditions.cuda_available():
        return None
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name()


def _data_sets(data_dir: Path | None) -> Facts:
    """ "found", or what is wrong, for each data set; what the user should know of them; and all that is damaged."""
    from nodes.data import datasets as data  # noqa: PLC0415

    states, notes, damaged = {}, [], []
    try:
        present = data.names_in(data_dir) if data_dir else []
    except ValueError as error:
        raise InputError([f"--data: {error}"]) from None
    for name in dict.fromkeys([*data.dataset_names(), *present]):
        try:
            found = data.examine_dataset(name, data_dir)
        except ValueError as error:
            states[name] = str(error).removeprefix(f"{name}: ")
            damaged += [str(error)] if name in present else []
            continue
        lost = len(found.damaged)
        states[name] = f"{lost:,} of {found.pictures:,} pictures cannot be decoded" if lost else "found"
        notes += [f"{name}: {note}" for note in found.notes]
        damaged += [f"{name}: {file}" for file in found.damaged]
    return {"data_sets": states, "data_notes": notes, "damaged": damaged}


def as_lines(facts: Facts) -> list[str]:
    machine, kernel = facts["machine"], facts["kernel"]
    shaping = ", ".join(f"{name} {_known(there)}" for name, there in kernel.items())
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in facts["versions"].items())
    return [
        f"machine   {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB",
        f"system    {machine['system']}, {'root' if facts['root'] else 'not root'}",
        f"versions  {versions}",
        f"kernel    {shaping} ({_kernel_shaping(facts)}; emulated shaping works everywhere)",
        *(f"removed   {name}" for name in facts.get("swept", [])),
        *(f"left      {name}, of a run that was killed; bench doctor --clean removes it" for name in facts["left"]),
        f"gpu       {facts['gpu'] or 'none'}",
        *_data_lines(facts),
        *(f"note      {note}" for note in facts["data_notes"]),
        *(f"damaged   {file}" for file in facts["damaged"]),
    ]


def _data_lines(facts: Facts) -> list[str]:
    if not facts["data"]:
        packaged = [name for name, state in facts["data_sets"].items() if state == "found"]
        return [
            f"data      {', '.join(packaged)}, packaged; for others give --data DIR or set BENCH_DATA (docs/data.md)"
        ]
    return [f"data      {facts['data']}", *(f"  {name:<13} {state}" for name, state in facts["data_sets"].items())]


def _kernel_shaping(facts: Facts) -> str:
    """What --shaping kernel does on this machine."""
    if not facts["root"]:
        return "--shaping kernel needs root"
    if facts["kernel"]["netem"]:
        return "--shaping kernel uses netem"
    if facts["kernel"]["tbf"]:
        return "--shaping kernel uses tbf for rates and emulates the rest"
    return "--shaping kernel is not possible"


def _known(there: bool | None) -> str:
    return "unknown" if there is None else "yes" if there else "no"
