"""Models as chains of layers that can be cut anywhere."""

from nodes.model.chain import Chain, Moment, Part
from nodes.model.factory import build_model, outline

__all__ = ["Chain", "Moment", "Part", "build_model", "outline"]
