"""Schemes as users may write them, good ones and bad ones."""

from nodes.federated.schemes import Scheme


def no_scheme() -> dict:
    return {}


class Unknown(Scheme):
    server_parts = "two"


class Hasty(Scheme):
    waits = False
    client_parts = "aggregated"
