"""Modules that a specification names, of models, stages and schemes written as ``module:callable``."""

from nodes.spec.federation import Federation
from nodes.spec.job import Job, ModelSpec
from nodes.spec.service import Service


def modules_of(spec: Job | Service | Federation) -> tuple[str, ...]:
    """Modules that a node imports for ``spec``, beside those of built-in and registered names."""
    names = []
    if isinstance(spec, Federation):
        names.append(spec.scheme.name)
    job = spec.job if isinstance(spec, Federation) else spec
    names.append(ModelSpec.read(job.model).name)
    if isinstance(job, Job):
        names += [stage.name for stage in job.stages]
    return tuple(sorted({name.partition(":")[0] for name in names if ":" in name}))
