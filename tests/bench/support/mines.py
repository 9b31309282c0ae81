"""Something that goes off at one node, at one moment of its work."""

import os
import signal
from pathlib import Path

import psutil
import torch

from nodes.messages import Tensors
from nodes.stage import Stage


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


class Mine(Stage):
    """Changes nothing until process ``node`` comes to ``moment``: build, train or test, ``after`` so many times.

    It then does ``effect`` to itself, or kills the process ``victim`` of the same launcher.
    """

    def __init__(  # noqa: PLR0917
        self, shapes: Tensors, node: str, moment: str, effect: str = "kill", after: int = 0, victim: str | None = None
    ) -> None:
        super().__init__(shapes)
        self._node, self._moment, self._effect = node, moment, effect
        self._left, self._victim = after, victim
        self._come_to("build")

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        self._come_to("train" if self.training else "test")
        return values, None

    def restore(self, codes: Tensors) -> Tensors:
        self._come_to("train" if self.training else "test")
        return codes

    def _come_to(self, moment: str) -> None:
        if (moment, Path("/proc/self/comm").read_text().strip()) == (self._moment, self._node):
            self._left -= 1
            if self._left == -1:
                EFFECTS[self._effect]() if self._victim is None else kill_other(self._victim)


class Counting(Stage):
    """Cannot be made, and says with how many threads."""

    def __init__(self, shapes: Tensors) -> None:
        raise RuntimeError(f"{torch.get_num_threads()} threads")


class Unsendable(Stage):
    """Codes of a type that no message carries."""

    def encode(self, codes: Tensors) -> Tensors:
        return {name: code.double() for name, code in codes.items()}
