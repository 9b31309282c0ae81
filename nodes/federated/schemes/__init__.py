"""Schemes: how clients train one network together. ``Scheme`` is the base of your own."""

from nodes.federated.schemes.base import ClientState, RoundState, Scheme, Update, mean
from nodes.federated.schemes.builtin import SCHEMES, build_scheme, scheme_of

__all__ = ["SCHEMES", "ClientState", "RoundState", "Scheme", "Update", "build_scheme", "mean", "scheme_of"]
