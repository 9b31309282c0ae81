"""Conditions of a run: data folder, device, link shaping, machine and versions."""

import functools
import gzip
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.suite.document import InputError
from reports.record import Mode, ShapingBackend

DeviceChoice = Literal["auto", "cpu", "cuda"]
ShapingChoice = Literal["auto", "none", "emulated", "kernel"]
# What a run and its resumption must have in common, by key of environment.json, and what is told where it differs. All
# else is noted there without a word: memory, system and kernel, host, process, folders, times.
SAME = (
    *("scale", "seed", "dataset", "shaping", "device", "hosts"),
    *("versions.torch", "versions.torchvision", "versions.numpy"),
)
NOTED = (
    "started",
    "ended",
    "host",
    "process",
    "machine",
    "versions",
    "commit",
    "arguments",
)  # of every earlier part of a run
TOLD = ("machine.cpu", "machine.cores", "versions.python", "versions.splitmec", "versions.aiohttp", "versions.uvloop")
MOST_SEEDS = 10_000  # of a case
MOST_RESTARTS = 1000  # of a case
ROOT = Path(__file__).parents[2]  # of the checkout, or of what packages are installed in
GIT_S = 10.0
PACKAGES = ("splitmec", "torch", "torchvision", "aiohttp", "uvloop", "msgspec", "numpy", "pandas")


def data_folder(given: Path | None) -> Path | None:
    """The folder with data sets: ``given``, else ``$BENCH_DATA``, else None. Raises InputError if it does not exist."""
    inherited = os.environ.get("BENCH_DATA")
    folder = given or (Path(inherited) if inherited else None)
    if folder is not None and not folder.is_dir():
        raise InputError([f"{'--data' if given else 'BENCH_DATA'}: {folder} is not a folder"])
    return folder


def device(choice: DeviceChoice) -> str:
    """ "cpu" or "cuda". Raises InputError if CUDA is asked for and not available."""
    if choice == "cpu":
        return "cpu"
    found = cuda_available()
    if choice == "cuda" and not found:
        raise InputError(["--device: cuda: torch finds no CUDA device; give cpu or auto"])
    return "cuda" if found else "cpu"


def cuda_available() -> bool:
    """Whether torch can use a GPU. Asks NVML, as a CUDA context would not survive a fork."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return False
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()


def shaping(choice: ShapingChoice) -> ShapingBackend:
    """The shaping backend of links; the kernel only if asked for. Raises InputError if it cannot shape links."""
    if choice in ("auto", "emulated"):
        return "emulated"
    if choice == "none":
        return "none"
    if os.geteuid() != 0:
        raise InputError(["--shaping: kernel: needs root; give emulated, or run as root"])
    from netem.kernel.namespace_network import ShapeError, supported_shapers  # noqa: PLC0415  (pyroute2)

    try:
        found = supported_shapers()
    except ShapeError as error:
        raise InputError([f"--shaping: kernel: {error}; give emulated"]) from None
    if not found:
        raise InputError(["--shaping: kernel: this kernel has neither netem nor tbf; give emulated"])
    return "kernel" if "netem" in found else "tbf+emulated"


def shaping_of(mode: Mode, chosen: ShapingBackend) -> ShapingBackend:
    """The shaping of a case in ``mode``: in-process mode has no links, and the kernel never shapes virtual ones."""
    if mode == "in-process":
        return "none"
    return "emulated" if mode == "virtual" and chosen != "none" else chosen


def kernel_has(scheduler: Literal["netem", "tbf"]) -> bool | None:
    """Whether the running kernel has this packet scheduler or can load it; None if unknown."""
    if Path("/sys/module", f"sch_{scheduler}").exists():
        return True
    symbol, config = f"CONFIG_NET_SCH_{scheduler.upper()}", _kernel_config()
    if f"# {symbol} is not set" in config:
        return False
    return True if f"{symbol}=y" in config or f"{symbol}=m" in config else None


def _kernel_config() -> list[str]:
    with suppress(OSError):
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode().splitlines()
    with suppress(OSError):
        return Path(f"/boot/config-{platform.release()}").read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def differences(keys: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """(before, now) of every dotted key in which two environments differ."""

    def at(environment: Mapping[str, Any], key: str) -> Any:
        outer, _, inner = key.partition(".")
        value = environment.get(outer)
        return value.get(inner) if inner and isinstance(value, dict) else value

    found = {key: (at(before, key), at(now, key)) for key in keys}
    return {key: values for key, values in found.items() if values[0] != values[1]}


def cores() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, str | int | None]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout at ``root``, with ``-dirty`` where files have changed; None without a checkout."""
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=GIT_S, check=False)
    except (OSError, subprocess.SubprocessError):  # no git, or a very slow disk
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
