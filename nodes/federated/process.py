"""Nodes of a federation as a process: an edge server or the cloud has its own, clients may share one.

A client connects to its edge server, an edge server to the cloud, at the address that the runner gave; a server lets
in whoever comes in the same run, by name.
"""

from functools import cache, partial

from nodes.data.loading import load_data
from nodes.federated.client_worker import ClientWorker
from nodes.federated.cloud import CloudWorker
from nodes.federated.edge.worker import EdgeWorker
from nodes.federated.in_process import WorkerKinds, cost_model, facts, make_node
from nodes.federated.keeping import kept_account
from nodes.runtime.hosting import Hosted, HostPlan
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
    data = cache(partial(load_data, setup.federation.job))  # a server needs none
    kinds = WorkerKinds(CloudWorker, EdgeWorker, lambda federation, client: ClientWorker(federation, client, data()))
    return [_hosted(setup, name, kinds) for name in setup.names]


def _hosted(setup: Enlist, name: str, kinds: WorkerKinds) -> Hosted:
    """The node ``name``. The runner learns of a client's end at once: an edge server may wait for the client."""
    federation = setup.federation
    role, worker = make_node(federation, name, kinds, servers_of(setup, name))
    last_word = ClientFinished(client=name) if name in federation.client_names else None
    cost, earlier = cost_model(federation, name), kept_account(federation, name)
    return Hosted(role, worker, cost, partial(facts, worker), last_word, earlier)


def servers_of(setup: Enlist, name: str) -> tuple[Peer, ...]:
    """Addresses of the servers of ``name``. Raises ValueError unless they are the federation's, in their order."""
    servers, due = setup.servers.get(name, ()), setup.federation.servers_of(name)
    if tuple(peer.name for peer in servers) != due:
        raise ValueError(f"{name}: got servers {[peer.name for peer in servers]}, expected {list(due)}")
    return servers
