"""What does a curious server know, and what does it read from what the client sends?

It has pictures of its own from the same source as the client's, none of them the client's, and the client's part of
the network as trained, so that it can send its own through that and the stage. On what would cross it trains a decoder.
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
    """The pictures that the server has, those that it wants, and how long it trains."""

    auxiliary: Pictures
    wanted: Pictures
    epochs: int
    seed: int

    def on(self, client: Segment) -> tuple[torch.Tensor, torch.Tensor]:
        """What ``client`` sends of the wanted pictures (N, ...), and what is read from that (N, 3, S, S)."""
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
    """The trained network, cut in two at another ``boundary``, without a stage."""
    weights = f"{trained.job.checkpoint}/network.pt"
    torch.save({name: one for segment in trained.segments for name, one in segment.state().items()}, weights)
    job = replace(trained.job, splits=(boundary,), weights=weights)
    return [Segment(job, index) for index in range(2)]


def smashed(client: Segment, pictures: Pictures) -> torch.Tensor:
    """What the server decodes (N, ...) from what ``client`` sends of ``pictures``, in evaluation mode."""
    found = []
    for number, (some, _) in enumerate(batches(pictures, BATCH, seed=0, epoch=0, shuffle=False, augment=False)):
        message = client.source(some, None, assignment=0, step=number, train=False)
        assert isinstance(message, Activation)
        found.append(_code(client.outbound.decode(message.tensors), len(some)))
    return torch.cat(found)


def _code(codes: Tensors, count: int) -> torch.Tensor:
    """The one code of numbers for all ``count`` samples; several, as features. ValueError where there is none."""
    found = [code for code in codes.values() if code.is_floating_point() and code.ndim > 1 and len(code) == count]
    if not found:
        raise ValueError(f"of {sorted(codes)} no code is for all samples: give the stage one path")
    return found[0] if len(found) == 1 else torch.cat([code.flatten(1) for code in found], 1)
