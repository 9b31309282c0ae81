"""Weights of the edge servers' parts at the cloud, against a plain loop in which each round is written out."""

import copy

import pytest
from family_oracle import Family, drawn_data, federation_of, mean_of, states, trained_states
from federations import assert_close

from nodes.spec.federation import ClientMove, SchemeSpec

DATA = drawn_data(43)  # fifteen pictures, fourteen and fourteen
MOVES = (ClientMove(2, 1, 0), ClientMove(2, 2, 1))  # in round 1 alone, the last of two, the second server has nobody


@pytest.mark.parametrize("scheme", ["psl", "psl-averaged", "sflv1"])
@pytest.mark.parametrize("rounds", [2, 4])
def test_parts_weigh_by_the_samples_of_all_rounds_since_the_last_average(scheme, rounds, tmp_path):
    """A server whose only client has just moved away keeps the weight, and the part, of the round before."""
    federation = federation_of(
        tmp_path,
        "normed",
        SchemeSpec(name=scheme),
        rounds=rounds,
        local_steps=2,
        edges=2,
        cloud_every=2,
        moves=MOVES[: rounds // 2],
    )
    copies = scheme == "sflv1"
    oracle = Family(federation, DATA, servers=3 if copies else 2)

    def train(group: list[int], edge: int):
        """A round of ``group``; its server's part, and that of the clients."""
        for _ in range(2):
            if copies:
                for client in group:
                    oracle.alone(client, client)
            else:
                oracle.joint(group, edge)
        clients, counts = [oracle.clients[client] for client in group], [oracle.samples(client) for client in group]
        if scheme != "psl":
            put(clients, mean_of(clients, counts))
        if copies:
            served = [oracle.servers[client] for client in group]
            put(served, mean_of(served, counts))
        return copy.deepcopy((oracle.servers[group[0] if copies else edge], clients[0]))

    def put(modules, state) -> None:
        for module in modules:
            module.load_state_dict(state)

    first, second, third = (oracle.samples(client) for client in range(3))
    train([0, 1], 0)
    left = train([2], 1)
    joined = train([0, 1, 2], 0)
    weights = [2 * (first + second) + third, third]
    for period in range(rounds // 2):
        if period:
            train([0, 1], 0), train([2], 1)
            joined, left = train([0, 1], 0), train([2], 1)
            weights = [2 * (first + second), 2 * third]
        servers, clients = zip(joined, left, strict=True)
        put(oracle.servers, mean_of(servers, weights))
        if scheme != "psl":
            put(oracle.clients, mean_of(clients, weights))
    clients, servers = trained_states(federation, DATA)
    for found, expected in zip(clients, states(oracle.clients), strict=True):
        assert_close(found, expected)
    for found in servers:
        assert_close(found, oracle.servers[0].state_dict())
