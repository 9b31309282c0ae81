"""How do nodes of a federation live as a process? An edge server or the cloud has its own, clients may share one.

A client connects to its edge server, an edge server to the cloud, at the address that the runner gave; a server lets
in whoever comes in the same run, by name. What the runner says is for all that live here.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec

from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.federated.client_worker import ClientWork
from nodes.federated.cloud import Cloud, CloudWork
from nodes.federated.edge.worker import EdgeWork
from nodes.federated.in_process import NodeReport, client_role, edge_role, node_report, serving
from nodes.runtime.actions import RoamingRole
from nodes.runtime.allocator import resident_bytes
from nodes.runtime.dynamic_node import ENDED, RoamingNode
from nodes.runtime.executors import CostModel, PacedExecutor, ThreadExecutor, on_device
from nodes.spec.federation import CLOUD, Federation
from nodes.spec.job import Device
from nodes.wire.channel import Channel, ChannelClosed, MemoryChannel, memory_pair
from nodes.wire.listener import RUNNER, Listener, peer_id
from nodes.wire.messages import Enlist, Error, Hello, Peer, Shutdown
from nodes.wire.transport import connect


class _Resident(NamedTuple):
    """One that lives here."""

    node: RoamingNode
    worker: Any
    stretched: PacedExecutor | None
    runner: tuple[MemoryChannel, MemoryChannel]  # its end of its channel to the runner, and ours


async def serve_federation(home: Listener, control: Channel, run: str, told: Enlist, stack: AsyncExitStack) -> Shutdown:
    """Be those that the runner has ``told`` to be until each of them has finished; their reports.

    If one fails, channels to neighbours are left to ``stack``. Raises NodeError and what a worker raises.
    """
    cpu_before, threads = time.process_time(), told.federation.job.threads
    home.limits.payload_bytes = told.federation.job.payload_bytes
    computes = [ThreadExecutor(threads) for _ in told.names]  # one that is stretched must not hold up another
    for compute in computes:
        stack.push_async_callback(compute.end)
    made = await asyncio.get_running_loop().run_in_executor(computes[0].pool, _build, told)

    async def reach(name: str, peer: Peer) -> Channel:
        return await connect(peer.host, peer.port, peer_id(name, run), home.token, home.limits, peer=peer.name)

    residents = [
        _settle(told, name, built, compute, partial(reach, name))
        for name, built, compute in zip(told.names, made, computes, strict=True)
    ]
    nodes = [resident.node for resident in residents]
    stack.callback(asyncio.create_task(_hand_out(control, residents)).cancel)
    stack.callback(asyncio.create_task(_let_in(home, run, nodes[0])).cancel)  # nobody comes to a client
    stack.push_async_callback(_close, nodes)
    await control.send(Hello(node=home.name, pid=os.getpid()))
    try:
        async with asyncio.TaskGroup() as group:  # the first that fails ends all
            for resident in residents:
                group.create_task(_live(told, resident, control))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    held_bytes = resident_bytes()
    await stack.aclose()  # now the channels' connections are final
    stack.callback(asyncio.create_task(_let_in(home, run, nodes[0])).cancel)  # whoever comes now is told of the end
    reports = [_report(resident) for resident in residents]
    reports[0].resident_bytes, reports[0].cpu_s = held_bytes, time.process_time() - cpu_before
    return Shutdown(report={"nodes": msgspec.to_builtins(reports)})


def _build(told: Enlist) -> list[tuple[RoamingRole, Any]]:
    clients = told.federation.client_names
    data = load_data(told.federation.job) if told.names[0] in clients else None
    return [_make(told.federation, name, _servers(told, name), data) for name in told.names]


def _servers(told: Enlist, name: str) -> tuple[Peer, ...]:
    """Where ``name`` finds its servers. Raises ValueError unless all that it has are told, and in their order."""
    federation, edges = told.federation, told.federation.edge_names
    if name in federation.client_names:
        due = [edges[edge] for edge in federation.visits(federation.client_names.index(name))]
    elif name in (CLOUD, *edges):
        due = [CLOUD] if name != CLOUD and len(edges) > 1 else []
    else:
        raise ValueError(f"{name}: nobody of this federation")
    servers = told.servers.get(name, ())
    if [peer.name for peer in servers] != due:
        raise ValueError(f"{name}: its servers are {due}, and not {[peer.name for peer in servers]}")
    return servers


def _make(federation: Federation, name: str, servers: Sequence[Peer], data: Dataset | None) -> tuple[RoamingRole, Any]:
    """The role and the worker of ``name``. Raises ValueError for a client without ``data``."""
    if name == CLOUD:
        return Cloud(federation), CloudWork()
    if name in federation.edge_names:
        edge = federation.edge_names.index(name)
        return edge_role(federation, edge, *servers), EdgeWork(federation, edge)
    if data is None:
        raise ValueError("clients share no process with servers")
    client = federation.client_names.index(name)
    work = ClientWork(federation, client, data)
    return client_role(federation, client, work, servers), work


def _settle(told: Enlist, name: str, built: tuple[RoamingRole, Any], compute: ThreadExecutor, reach: Any) -> _Resident:
    runner: tuple[MemoryChannel, MemoryChannel] = memory_pair(name, RUNNER)
    due_s = _due(told.federation, name)
    stretched = PacedExecutor(compute, due_s) if due_s else None
    node = RoamingNode(name, *built, stretched or compute, {"runner": runner[0]}, time.perf_counter, reach)
    return _Resident(node, built[1], stretched, runner)


def _due(federation: Federation, name: str) -> CostModel | None:
    """How long ``name`` takes, if it is to be slower than it is."""
    if name in federation.client_names:
        device = federation.device(federation.client_names.index(name))
        return None if device == Device() else on_device(device)
    if name == CLOUD or federation.server_timing is None:
        return None
    return serving(federation.server_timing, federation.job.batch_size)


def _report(resident: _Resident) -> NodeReport:
    done = node_report(resident.node, resident.worker)
    done.pid = os.getpid()
    done.overrun_s = resident.stretched.overrun_s if resident.stretched else 0.0
    return done


async def _hand_out(control: Channel, residents: Sequence[_Resident]) -> None:
    """Let all hear what the runner says, and its end."""
    with suppress(ChannelClosed):
        while True:
            message = await control.receive()
            for resident in residents:
                with suppress(ChannelClosed):
                    await resident.runner[1].send(message)
    for resident in residents:
        await resident.runner[1].close()


async def _live(told: Enlist, resident: _Resident, control: Channel) -> None:
    """Be ``resident`` until it has finished and the runner knows all that it had to say; of a client, its end at once.

    Others that live here may go on for long, and wait for those that wait for it.
    """
    passing = asyncio.create_task(_pass_on(resident.runner[1], control))
    try:
        await resident.node.run()
        await resident.runner[0].close()
        await passing
        if resident.node.name in told.federation.client_names:
            await control.send(Error(node=resident.node.name, reason=ENDED))
    finally:
        passing.cancel()


async def _pass_on(resident: MemoryChannel, control: Channel) -> None:
    with suppress(ChannelClosed):
        while True:
            await control.send(await resident.receive())


async def _let_in(home: Listener, run: str, node: RoamingNode) -> None:
    while True:
        channel = await home.neighbour(run)
        await node.attach(channel.peer, channel)


async def _close(nodes: Sequence[RoamingNode]) -> None:
    await asyncio.gather(*(channel.close() for node in nodes for _, channel in node.used))
