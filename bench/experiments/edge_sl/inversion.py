"""Inversion attack of an honest but curious server on smashed data.

The server has pictures of the same distribution as the client's, none of them the client's, and the client's trained
part of the network. It trains a decoder on the smashed data of its own pictures.
"""

from typing import NamedTuple

import numpy as np
import torch
from msgspec.structs import replace

from bench.experiments.common.inference import BATCH
from bench.experiments.common.threads import one_thread
from bench.experiments.common.two_node_training import Trained
from nodes.data.batching import batches
from nodes.data.images import Pictures
from nodes.model.boundary import Tensors
from nodes.stages.leakage import invert, train_inversion_decoder
from nodes.training.segment import Segment
from nodes.wire.messages import Activation


class Attack(NamedTuple):
    """The server's pictures, those that it attacks, and the epochs of its training."""

    auxiliary: Pictures
    wanted: Pictures
    epochs: int
    seed: int

    def on(self, client: Segment) -> tuple[torch.Tensor, torch.Tensor]:
        """The smashed data of the attacked pictures (N, ...) and their reconstructions (N, 3, S, S)."""
        device = client.job.device
        known, sent = (smashed(client, pictures).to(device) for pictures in (self.auxiliary, self.wanted))
        with one_thread():
            decoder = train_inversion_decoder(
                known, pixels(self.auxiliary).to(device), epochs=self.epochs, seed=self.seed
            )
            return sent.cpu(), invert(decoder, sent).cpu()


def pixels(pictures: Pictures) -> torch.Tensor:
    """(N, 3, S, S) in [0, 1]."""
    images = pictures.images[np.arange(len(pictures))].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)).float() / 255


def recut(trained: Trained, boundary: int) -> list[Segment]:
    """The trained network cut in two at another ``boundary``, without a stage."""
    weights = f"{trained.job.checkpoint}/network.pt"
    torch.save({name: one for segment in trained.segments for name, one in segment.state().items()}, weights)
    job = replace(trained.job, splits=(boundary,), weights=weights)
    return [Segment(job, index) for index in range(2)]


def smashed(client: Segment, pictures: Pictures) -> torch.Tensor:
    """The smashed data (N, ...) that the server decodes for ``pictures``, in evaluation mode."""
    found = []
    for number, (some, _) in enumerate(batches(pictures, BATCH, seed=0, epoch=0, shuffle=False, augment=False)):
        message = client.source(some, None, assignment=0, step=number, train=False)
        assert isinstance(message, Activation)
        found.append(_code(client.outbound.decode(message.tensors), len(some)))
    return torch.cat(found)


def _code(codes: Tensors, count: int) -> torch.Tensor:
    """The floating-point code of all ``count`` samples; several are flattened and joined. ValueError for none."""
    found = [code for code in codes.values() if code.is_floating_point() and code.ndim > 1 and len(code) == count]
    if not found:
        raise ValueError(f"no code of {sorted(codes)} holds all {count} samples; give the stage one path")
    return found[0] if len(found) == 1 else torch.cat([code.flatten(1) for code in found], 1)
