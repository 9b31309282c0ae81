"""Something that goes off at one node, at one moment of its work."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from nodes.model.boundary import Tensors
from nodes.stages.base import Stage
from nodes.zoo.small_cnn import small_cnn


def memory() -> None:
    raise RuntimeError("out of memory:\n tried to allocate 64 GiB")


def leave() -> None:
    raise SystemExit(7)


def kill_other(name: str) -> None:
    launcher = psutil.Process().parent()
    assert launcher is not None
    for found in [process for process in launcher.children() if process.name() == name]:
        found.kill()


EFFECTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda: os._exit(0),
    "memory": memory,
    "leave": leave,
}


class Fuse:
    """Does ``effect`` to process ``node`` when that comes to ``moment``, build, train or test, ``after`` so many times.

    Or it kills the process ``victim`` of the same launcher. With ``once`` only if it can make that file.
    """

    def __init__(  # noqa: PLR0917 (as mined networks name them)
        self,
        node: str,
        moment: str,
        effect: str = "kill",
        after: int = 0,
        victim: str | None = None,
        once: str | None = None,
    ) -> None:
        self._node, self._moment, self._effect = node, moment, effect
        self._left, self._victim, self._once = after, victim, once

    def come_to(self, moment: str) -> None:
        if (moment, Path("/proc/self/comm").read_text().strip()) == (self._moment, self._node):
            self._left -= 1
            if self._left == -1 and self._goes_off():
                EFFECTS[self._effect]() if self._victim is None else kill_other(self._victim)

    def _goes_off(self) -> bool:
        try:
            if self._once is not None:
                Path(self._once).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Mine(Stage):
    """Changes nothing until its ``Fuse`` goes off."""

    def __init__(self, shapes: Tensors, **fuse: Any) -> None:
        super().__init__(shapes)
        self._fuse = Fuse(**fuse)
        self._fuse.come_to("build")

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        self._fuse.come_to("train" if self.training else "test")
        return values, None

    def restore(self, codes: Tensors) -> Tensors:
        self._fuse.come_to("train" if self.training else "test")
        return codes

    def encode_gradients(self, gradients: Tensors) -> Tensors:
        self._fuse.come_to("backward")
        return gradients

    def decode_gradients(self, wire: Tensors) -> Tensors:
        self._fuse.come_to("backward")
        return wire


class Passing(torch.nn.Module):
    """A layer that changes nothing until its fuse goes off: for networks that are cut nowhere."""

    whole = True

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta and len(x) > 3:  # 2 and 3 where a chain is compared with its model
            self._fuse.come_to("train" if self.training else "test")
        return x


def __getattr__(name: str) -> Callable[[], torch.nn.Module]:
    """``mined_client1_train_4_client3``: a small network, of node, moment, after how often, and victim."""
    if not name.startswith("mined_"):
        raise AttributeError(name)
    _, node, moment, after, victim = name.split("_")
    return lambda: torch.nn.Sequential(Passing(Fuse(node, moment, "kill", int(after), victim)), small_cnn())


class Counting(Stage):
    """Cannot be made, and says with how many threads."""

    def __init__(self, shapes: Tensors) -> None:
        raise RuntimeError(f"{torch.get_num_threads()} threads")


class Unsendable(Stage):
    """Codes of a type that no message carries."""

    def encode(self, codes: Tensors) -> Tensors:
        return {name: code.double() for name, code in codes.items()}
