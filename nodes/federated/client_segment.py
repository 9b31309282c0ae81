"""A client's part of the network: gradients may return to it that are the same for all clients."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from nodes.errors import ModelError, one_line
from nodes.federated.shared_state import full_name
from nodes.model.boundary import Tensors
from nodes.model.checkpoint import write_state
from nodes.training.segment import Segment

SHARED = "shared/"  # before the names of gradients that are the same for all clients


class SharingSegment(Segment):
    """A client's part, to which gradients may return that are the same for all clients.

    ``adjust_gradients`` is the scheme's hook, if it has one of its own.
    """

    adjust_gradients: Callable[[Mapping[str, nn.Parameter], Tensors], None] | None = None

    def begin_round(self, round_number: int) -> None:
        """Begin a round: drop steps that were not finished, note the present parameters for the scheme's hook."""
        if round_number:  # a segment begins with epoch 0
            self.begin_epoch(round_number)
        self._pending.clear()
        if self.adjust_gradients:
            self._start = {name: parameter.detach().clone() for name, parameter in self._named_parameters().items()}

    def _step(self, save: int | None, steps: tuple[int, int] | None = None) -> None:
        if self.adjust_gradients:
            self.adjust_gradients(self._named_parameters(), self._start)
        super()._step(save, steps)

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by their names in ``state``."""
        return {
            full_name(part, key): parameter
            for part, module in self._parts().items()
            for key, parameter in module.named_parameters()
        }

    def _decode_gradients(self, tensors: Tensors) -> Tensors:
        shared = {name.removeprefix(SHARED): value for name, value in tensors.items() if name.startswith(SHARED)}
        own = super()._decode_gradients({name: value for name, value in tensors.items() if not name.startswith(SHARED)})
        if not shared:
            return own
        shared = super()._decode_gradients(shared)
        return {name: torch.cat([value, own[name]]) if name in own else value for name, value in shared.items()}


def exchange(segments: Sequence[Segment], tensors: Tensors) -> Tensors:
    """Put ``tensors`` in the place of those of these names in ``state``; what was there. Nothing is copied."""
    held = {
        full_name(*name.split(".", 1)): (tensor, one.device)
        for one in segments
        for name, tensor in one._tensors().items()
    }
    before = {name: held[name][0].data for name in tensors}
    for name, tensor in tensors.items():
        holder, device = held[name]
        holder.data = tensor.to(device)
    return before


def keep(segments: Sequence[Segment], path: Path, begun: int) -> None:
    """Save all that a client's ``segments`` go on from, once ``begun`` steps were taken."""
    write_state(path, {"begun": begun, "parts": [one.everything() for one in segments]})


def resume(segments: Sequence[Segment], path: Path) -> int:
    """Go on from what ``keep`` saved; the steps taken. Raises ModelError for a file of anything else."""
    try:
        saved = torch.load(path, map_location=segments[0].device, weights_only=True)
        for one, part in zip(segments, saved["parts"], strict=True):
            one.go_on(part)
        return int(saved["begun"])
    except Exception as error:  # whatever stands in the file
        raise ModelError(f"{path} is no state of this client's part: {one_line(error)}") from None
