"""Tracing of a model into one graph for training and evaluation, free of in-place operations."""

from nodes.model.tracing.trace import Kept, Network, check_openable, trace

__all__ = ["Kept", "Network", "check_openable", "trace"]
