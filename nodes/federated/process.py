"""Nodes of a federation as a process: an edge server or the cloud has its own, clients may share one.

A client connects to its edge server, an edge server to the cloud, at the address that the runner gave; a server lets
in whoever comes in the same run, by name.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.federated.client import Client
from nodes.federated.client_worker import ClientWorker
from nodes.federated.cloud import Cloud, CloudWorker
from nodes.federated.edge.worker import EdgeWorker
from nodes.federated.in_process import edge_role, facts, serving
from nodes.runtime.actions import Role
from nodes.runtime.executors import CostModel, on_device
from nodes.runtime.hosting import Hosted, HostPlan
from nodes.spec.federation import CLOUD, Federation
from nodes.spec.job import Device
from nodes.wire.messages import ClientFinished, Enlist, Peer


def host_plan(setup: Enlist) -> HostPlan:
    """The plan of the process of the nodes that ``setup`` names."""
    job = setup.federation.job
    return HostPlan(
        names=setup.names,
        build=partial(_build, setup),
        threads=job.threads,
        payload_bytes=job.payload_bytes,
        incoming=lambda peer: peer,
    )


def _build(setup: Enlist) -> list[Hosted]:
    federation = setup.federation
    data = load_data(federation.job) if setup.names[0] in federation.client_names else None
    return [_hosted(federation, name, servers_of(setup, name), data) for name in setup.names]


def servers_of(setup: Enlist, name: str) -> tuple[Peer, ...]:
    """Addresses of the servers of ``name``. Raises ValueError unless they are the federation's, in their order."""
    federation, edges = setup.federation, setup.federation.edge_names
    if name in federation.client_names:
        due = [edges[edge] for edge in federation.visits(federation.client_names.index(name))]
    elif name in (CLOUD, *edges):
        due = [CLOUD] if name != CLOUD and len(edges) > 1 else []
    else:
        raise ValueError(f"{name}: no node of this federation")
    servers = setup.servers.get(name, ())
    if [peer.name for peer in servers] != due:
        raise ValueError(f"{name}: got servers {[peer.name for peer in servers]}, expected {due}")
    return servers


def _hosted(federation: Federation, name: str, servers: Sequence[Peer], data: Dataset | None) -> Hosted:
    """Role and worker of ``name``. The runner learns of a client's end at once: an edge server may wait for the client.

    Raises ValueError for a client without ``data``.
    """
    role, worker = _make(federation, name, servers, data)
    last_word = ClientFinished(client=name) if name in federation.client_names else None
    return Hosted(role, worker, _cost_model(federation, name), partial(facts, worker), last_word)


def _make(federation: Federation, name: str, servers: Sequence[Peer], data: Dataset | None) -> tuple[Role, Any]:
    if name == CLOUD:
        return Cloud(federation), CloudWorker(federation)
    if name in federation.edge_names:
        edge = federation.edge_names.index(name)
        return edge_role(federation, edge, *servers), EdgeWorker(federation, edge)
    if data is None:
        raise ValueError(f"{name}: clients share no process with servers")
    client = federation.client_names.index(name)
    worker = ClientWorker(federation, client, data)
    return Client(federation, client, servers, worker.data), worker


def _cost_model(federation: Federation, name: str) -> CostModel | None:
    """How long the computations of ``name`` take, if it stands for a slower device."""
    if name in federation.client_names:
        device = federation.device(federation.client_names.index(name))
        return None if device == Device() else on_device(device)
    if name == CLOUD or federation.server_timing is None:
        return None
    return serving(federation.server_timing, federation.job.batch_size)
