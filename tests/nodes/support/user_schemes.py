"""Schemes as users may write them: some that work, and some whose hooks return what cannot be."""

from nodes.federated.schemes import Scheme, mean


class Averaging(Scheme):
    """Federated learning; the base of others here."""

    server_parts = "none"
    client_parts = "aggregated"


class Proximal(Averaging):
    """FedProx: a client is drawn back to where it began the round."""

    def __init__(self, mu):
        self.mu = mu

    def adjust_gradients(self, parameters, start):
        for name, parameter in parameters.items():
            parameter.grad += self.mu * (parameter.detach() - start[name])


class ServerMomentum(Averaging):
    """FedAvgM: the server's steps have a momentum."""

    def __init__(self, momentum):
        self.momentum, self.velocity = momentum, {}

    def aggregate_clients(self, updates, previous):
        for name, value in mean(updates).items():
            self.velocity[name] = self.momentum * self.velocity.get(name, 0.0) + (previous[name] - value)
        return {name: previous[name] - velocity for name, velocity in self.velocity.items()}


class FirstDone(Scheme):
    """A round ends when ``count`` clients are complete."""

    client_parts = "aggregated"

    def __init__(self, count, server_parts):
        self.count, self.server_parts = count, server_parts

    def is_over(self, round):
        return len(round.of_phase("complete")) >= self.count


class Pairs(Scheme):
    """Two clients train at a time; the first client goes on from its own part."""

    server_parts = "one"
    client_parts = "aggregated"

    def start(self, round):
        return round.of_phase("idle")[: 2 - len(round.of_phase("training"))]

    def hands_part(self, round, client):
        return client.index > 0


class Answering(Scheme):
    """The hook ``hook`` returns what ``answer`` makes of the round."""

    client_parts = "aggregated"

    def __init__(self, hook, answer):
        answers = {
            "nothing": lambda *_: [],
            "a stranger": lambda *_: [7],
            "twice": lambda round, *_: [round.clients[0]] * 2,
            "one": lambda round, *_: round.clients[:1],
            "zeros": lambda round, clients: [0.0] * len(clients),
            "too few": lambda *_: [1.0],
            "half": lambda updates, _: {"w": updates[0].state["w"][:1]},
            "failure": lambda *_: 1 / 0,
        }
        setattr(self, hook, answers[answer])


class Unknown(Scheme):
    server_parts = "two"


class Hasty(Scheme):
    waits = False
    client_parts = "aggregated"


def no_scheme():
    return {}
