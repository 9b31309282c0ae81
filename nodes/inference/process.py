"""A node of an inference service as a process.

The runner says where the nodes of a route listen; a node connects to the next as its role decides and lets in previous
nodes of the same run.
"""

import torch

from nodes.data.batching import batches
from nodes.data.loading import load_data
from nodes.inference.frames import wire_bytes
from nodes.inference.server import ServiceServer
from nodes.inference.ue import ServiceUe
from nodes.inference.whole_model import WholeModel, playing
from nodes.runtime.hosting import Hosted, HostPlan
from nodes.spec.service import Service
from nodes.splitting.controller import SplitControl
from nodes.splitting.link_estimates import LinkEstimates
from nodes.wire.messages import Serve

MAX_PICTURES = 64  # that the UE keeps for its tasks


def host_plan(name: str, setup: Serve) -> HostPlan:
    """The plan of node ``name`` of the service of ``setup``."""
    return HostPlan(
        names=[name],
        build=lambda: [_build(name, setup)],
        threads=setup.service.threads,
        payload_bytes=setup.service.payload_bytes,
        incoming=lambda peer: "previous",
        lasting=True,
    )


def _build(name: str, setup: Serve) -> Hosted:
    service, split = setup.service, SplitControl(setup.layer_s, setup.service.policy)
    worker = WholeModel(
        service.model,
        service.classes,
        service.input_shape,
        granularity=service.granularity,
        dtype=service.input_type,
        seed=service.seed,
        device=service.device,
        layer_s=setup.layer_s,
        pictures=pictures_of(service) if setup.source else None,
    )
    return Hosted(
        _role(name, setup, split, worker),
        worker,
        playing(worker) if service.paced else None,
        lambda: {"updates": split.updates, "switches": split.switches},
    )


def pictures_of(service: Service) -> torch.Tensor:
    """The UE's tasks (N, ...): the first test samples of the data set. Raises DataError."""
    drawn = batches(load_data(service).test, MAX_PICTURES, seed=service.seed, epoch=0, shuffle=False, augment=False)
    return next(iter(drawn))[0]


def _role(name: str, setup: Serve, split: SplitControl, worker: WholeModel) -> ServiceUe | ServiceServer:
    service = setup.service
    if setup.source:
        return ServiceUe(name, split, service.pace, service.deliver)
    sizes = wire_bytes(worker.frames, service.deliver)
    return ServiceServer(name, split, LinkEstimates(sizes, setup.incoming, service.policy), service.deliver)
