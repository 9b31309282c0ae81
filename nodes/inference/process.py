"""How does a node of an inference service live as a process? It joins whom its role decides, and takes who comes.

The runner says where the nodes of a route listen; a node connects downstream as its role decides and lets in
whoever comes from upstream in the same run. It keeps its connections until the runner lets go, so that no
neighbour takes the end of the service for a death.
"""

import asyncio
import os
import time
from contextlib import AsyncExitStack

import msgspec
import torch

from nodes.data.batching import batches
from nodes.data.loading import load_data
from nodes.inference.frames import wire_bytes
from nodes.inference.in_process import member_report
from nodes.inference.server import ServiceHop
from nodes.inference.ue import ServiceUe
from nodes.inference.whole_model import WholeModel, playing
from nodes.runtime.dynamic_node import RoamingNode
from nodes.runtime.executors import PacedExecutor, ThreadExecutor
from nodes.spec.service import Service
from nodes.splitting.controller import SplitControl
from nodes.splitting.link_estimates import LinkEstimates
from nodes.wire.channel import Channel
from nodes.wire.listener import Listener, peer_id
from nodes.wire.messages import Hello, Peer, Serve, Shutdown
from nodes.wire.transport import connect

MOST_PICTURES = 64  # that the UE keeps, as its tasks


async def serve_tasks(home: Listener, control: Channel, run: str, told: Serve, stack: AsyncExitStack) -> Shutdown:
    """Take part in the service that the runner has ``told`` of, until it says Shutdown; the report.

    Channels to neighbours are left to ``stack``. Raises NodeError and what the worker raises.
    """
    service, cpu_before = told.service, time.process_time()
    home.limits.payload_bytes = service.payload_bytes
    if service.threads is not None:
        torch.set_num_threads(service.threads)
    worker = await asyncio.get_running_loop().run_in_executor(None, _build, told)
    compute = ThreadExecutor(service.threads)
    paced = PacedExecutor(compute, playing(worker)) if service.paced else None
    stack.push_async_callback(compute.end)
    split = SplitControl(told.layer_s, service.policy)

    async def reach(peer: Peer) -> Channel:
        me = peer_id(home.name, run)
        return await connect(peer.host, peer.port, me, home.token, home.limits, peer=peer.name)

    role = _role(home.name, told, split, worker)
    node = RoamingNode(home.name, role, worker, paced or compute, {"runner": control}, time.perf_counter, reach)
    letting_in = asyncio.create_task(_let_in(home, run, node))
    stack.callback(letting_in.cancel)
    stack.push_async_callback(_close, node)
    await control.send(Hello(node=home.name, pid=os.getpid()))
    await node.run()
    done = member_report(node, split)
    done.pid = os.getpid()
    done.cpu_s = time.process_time() - cpu_before
    done.overrun_s = paced.overrun_s if paced else 0.0
    return Shutdown(report=msgspec.to_builtins(done))


def _build(told: Serve) -> WholeModel:
    service = told.service
    return WholeModel(
        service.model,
        service.classes,
        service.input_shape,
        granularity=service.granularity,
        seed=service.seed,
        device=service.device,
        layer_s=told.layer_s,
        pictures=pictures_of(service) if told.source else None,
    )


def pictures_of(service: Service) -> torch.Tensor:
    """The UE's tasks (N, C, H, W): the first test pictures of the data set. Raises DataError."""
    drawn = batches(load_data(service).test, MOST_PICTURES, seed=service.seed, epoch=0, shuffle=False, augment=False)
    return next(iter(drawn))[0]


def _role(name: str, told: Serve, split: SplitControl, worker: WholeModel) -> ServiceUe | ServiceHop:
    service = told.service
    if told.source:
        return ServiceUe(name, split, service.pace, service.deliver)
    sizes = wire_bytes(worker.frames, service.deliver)
    return ServiceHop(name, split, LinkEstimates(sizes, told.incoming, service.policy), service.deliver)


async def _let_in(home: Listener, run: str, node: RoamingNode) -> None:
    while True:
        await node.attach("up", await home.neighbour(run))


async def _close(node: RoamingNode) -> None:
    await asyncio.gather(*(channel.close() for _, channel in node.used))
