"""Pre-training of DynSplit's auto-encoders on the activations of the pre-trained network (DynSplit, Fig. 2)."""

import torch

from bench.experiments.common.inference import BATCH
from bench.experiments.common.two_node_training import TrainingRun
from nodes.data.batching import batches, subset
from nodes.model.checkpoint import read_weights, write_state
from nodes.spec.job import StageSpec
from nodes.stages.builtin import build_stage
from nodes.stages.dynsplit.pretraining import pretrain
from nodes.stages.dynsplit.stage import DynSplit
from nodes.training.segment import Segment
from nodes.wire.messages import Activation

PICTURES = 5000  # the most that coders are fitted to


def fitted(training: TrainingRun, name: str, spec: StageSpec, epochs: int) -> str:
    """The path of the run's initial weights with the coders of ``spec``, each fitted for ``epochs``.

    The file is kept in the case's folder under ``name``.
    """
    path = training.context.scratch / f"{name}-coders.pt"
    if not path.exists():
        write_state(path, _weights(training, spec, epochs))
    return str(path.resolve())


def _weights(training: TrainingRun, spec: StageSpec, epochs: int) -> dict[str, torch.Tensor]:
    job = training.job(StageSpec())
    device = torch.device(job.device)
    activations = _activations(training, Segment(job, 0)).to(device)
    torch.manual_seed(job.seed)
    stage = build_stage(spec, {"x": activations[:1].to("meta")}).to(device)
    assert isinstance(stage, DynSplit)
    for path in stage.paths:
        if list(path.encoder.parameters()):
            halves = path.encoder, path.decoder
            pretrain(*halves, activations, bits=path.bits, epochs=epochs, batch_size=job.batch_size, seed=job.seed)
    coders = {name: tensor.cpu() for name, tensor in stage.state_dict().items() if "coder" in name}
    whole = read_weights(training.weights, torch.device("cpu")) if training.weights else {}
    return whole | coders


def _activations(training: TrainingRun, segment: Segment) -> torch.Tensor:
    """The output of the UE's part of the network for training pictures: (N, C, H, W)."""
    some = subset(training.data.train, PICTURES, training.context.seed)
    found: list[torch.Tensor] = []
    for pictures, _ in batches(some, BATCH, seed=0, epoch=0, shuffle=False, augment=False):
        message = segment.source(pictures, None, assignment=0, step=0, train=False)
        assert isinstance(message, Activation)
        found += message.tensors.values()
    return torch.cat(found)
