"""Specifications of jobs, services and federations: frozen structs, without torch."""

from nodes.spec.federation import Federation, SchemeSpec
from nodes.spec.job import (
    Control,
    DataSpec,
    Device,
    Granularity,
    Job,
    MemoryFormat,
    ModelSpec,
    OptimizerSpec,
    Precision,
    StageSpec,
    Timing,
)
from nodes.spec.policy import LinkSpec, Policy
from nodes.spec.service import Pace, Service

__all__ = ["Control", "DataSpec", "Device", "Granularity", "Job", "ModelSpec", "OptimizerSpec", "StageSpec", "Timing"]
__all__ += ["Federation", "LinkSpec", "MemoryFormat", "Pace", "Policy", "Precision", "SchemeSpec", "Service"]
