# scheme.py
import torch

from nodes.federated.schemes import Scheme


class TrimmedMean(Scheme):
    """Split federated learning of the clients with most images; means leave out the ``trim`` extremes on each side."""

    server_parts = "copies"
    client_parts = "aggregated"

    def __init__(self, trim=1, participants=None):
        self.trim, self.participants = trim, participants

    def select(self, round, present):
        return sorted(present, key=lambda client: -client.samples)[: self.participants]

    def aggregate_clients(self, updates, previous):
        trim = min(self.trim, (len(updates) - 1) // 2)
        result = {}
        for name, tensor in updates[0].state.items():
            values = torch.stack([update.state[name].double() for update in updates]).sort(dim=0).values
            result[name] = values[trim : len(updates) - trim].mean(dim=0).to(tensor.dtype)
        return result

    aggregate_servers = aggregate_clients
