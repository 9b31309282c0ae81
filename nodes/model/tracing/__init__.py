"""Tracing of a model into one graph for training and evaluation, free of in-place operations."""

from nodes.model.tracing.trace import Kept, Network, trace

__all__ = ["Kept", "Network", "trace"]
