"""Tensors and numbers that a worker has computed, on their way into a message."""

import torch

from nodes.model.boundary import Tensors


class LateNumber:
    """A metric that a GPU may not have computed yet; ``float`` waits for it, and for nothing that was begun later.

    It takes the place of a float in the metrics of a message that stays in this process, and has a float's size.
    """

    def __init__(self, scalar: torch.Tensor) -> None:
        self._here = scalar.detach().to("cpu", non_blocking=True)  # into pinned memory
        self._copied = torch.cuda.Event() if scalar.is_cuda else None  # type: ignore[no-untyped-call]  # torch's
        if self._copied is not None:
            self._copied.record()

    def __float__(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._here)


def number(scalar: torch.Tensor) -> float:
    """Value of ``scalar``; 0 on the meta device."""
    return 0.0 if scalar.is_meta else float(scalar.detach())


def sendable(tensors: Tensors, stay: bool = False) -> Tensors:
    """``tensors`` to send: detached, contiguous and, unless they ``stay`` in this process, on the CPU.

    Meta tensors stay meta tensors.
    """
    return {
        name: (tensor.detach() if stay or tensor.is_meta else tensor.detach().cpu()).contiguous()
        for name, tensor in tensors.items()
    }
