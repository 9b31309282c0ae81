"""Where do pre-trained auto-encoders come from? From the activations of the pre-trained network (DynSplit, Fig. 2)."""

import torch

from bench.experiments.answers import BATCH
from bench.experiments.training import Bench
from nodes.algorithms.reconstruction import fit
from nodes.batches import batches, subset
from nodes.checkpoint import read_weights
from nodes.dynsplit import DynSplit
from nodes.job import StageSpec
from nodes.messages import Activation
from nodes.segment import Segment
from nodes.stage import build_stage

PICTURES = 5000  # at most, that coders are fitted to


def fitted(bench: Bench, name: str, spec: StageSpec, epochs: int) -> str:
    """A file of the bench's first weights with the coders of ``spec``, each fitted for ``epochs``.

    Kept in the case's folder under ``name``.
    """
    path = bench.context.scratch / f"{name}-coders.pt"
    if not path.exists():
        torch.save(_weights(bench, spec, epochs), path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    return str(path.resolve())


def _weights(bench: Bench, spec: StageSpec, epochs: int) -> dict[str, torch.Tensor]:
    job = bench.job(StageSpec())
    device = torch.device(job.device)
    activations = _activations(bench, Segment(job, 0)).to(device)
    torch.manual_seed(job.seed)
    stage = build_stage(spec, {"x": activations[:1].to("meta")}).to(device)
    assert isinstance(stage, DynSplit)
    for path in stage.paths:
        if list(path.encoder.parameters()):
            halves = path.encoder, path.decoder
            fit(*halves, activations, bits=path.bits, epochs=epochs, batch_size=job.batch_size, seed=job.seed)
    coders = {name: tensor.cpu() for name, tensor in stage.state_dict().items() if "coder" in name}
    whole = read_weights(bench.weights, torch.device("cpu")) if bench.weights else {}
    return whole | coders


def _activations(bench: Bench, segment: Segment) -> torch.Tensor:
    """What the UE's part of the network gives of training pictures: (N, C, H, W)."""
    some = subset(bench.data.train, PICTURES, bench.context.seed)
    found: list[torch.Tensor] = []
    for pictures, _ in batches(some, BATCH, seed=0, epoch=0, shuffle=False, augment=False):
        message = segment.source(pictures, None, assignment=0, step=0, train=False)
        assert isinstance(message, Activation)
        found += message.tensors.values()
    return torch.cat(found)
