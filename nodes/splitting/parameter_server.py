"""Cost of a split where agents exchange their parameters with a parameter server.

HiveMind, section VI-B: after each round parameters go to a server, and the merged ones return. Eq. 13 charges node p
for that, omega^p, if it computes the final layer; but other nodes may hold layers too, so ``layer_exchange_s`` charges
each link what crosses it. Both are costs of single layers and boundaries, so ``search`` stays exact.
"""

from collections.abc import Sequence

from nodes.splitting.search import move_s

Links = Sequence[tuple[float, float]]  # [P-1]: rate_bps, delay_s


def charge_final_layer(layer_costs: Sequence[Sequence[float]], transfer_costs: Sequence[float]) -> list[list[float]]:
    """``layer_costs`` [P][L] with ``transfer_costs`` [P] added to the final layer of each node (Eq. 13)."""
    return [[*costs[:-1], costs[-1] + more] for costs, more in zip(layer_costs, transfer_costs, strict=True)]


def model_exchange_s(parameter_bytes: Sequence[float], links: Links, server: int) -> list[float]:
    """omega [P] of Eq. 13: seconds for all parameters from node p to node ``server`` and back."""
    hop_s = [2 * (8 * sum(parameter_bytes) / rate_bps + delay_s) for rate_bps, delay_s in links]
    return [sum(hop_s[min(node, server) : max(node, server)]) for node in range(len(links) + 1)]


def layer_exchange_s(parameter_bytes: Sequence[float], links: Links, server: int) -> list[list[float]]:
    """Seconds [P-1][L+1] that each link takes for the parameters at each split of it, to ``server`` and back."""
    layers = len(parameter_bytes)
    return [
        [2 * second for second in move_s(parameter_bytes, 0 if link < server else layers, rate_bps, delay_s)]
        for link, (rate_bps, delay_s) in enumerate(links)
    ]
