"""Stages: what compresses, filters or perturbs the tensors at a cut. ``Stage`` is the base of your own."""

from nodes.stages.base import Stage
from nodes.stages.builtin import BUILT_IN, build_stage

__all__ = ["BUILT_IN", "Stage", "build_stage"]
