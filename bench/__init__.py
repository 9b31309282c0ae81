"""SplitMEC's benchmarks. ``bench.run("pipeline", scale="smoke")`` is ``bench run`` for notebooks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run"]


def run(*suites: str, **options: Any) -> "pd.DataFrame":
    """Run ``suites`` as ``bench run`` does; ``options`` as there (scale, out, seed, only, data, resume...).

    Returns all records as a frame whose ``attrs["out"]`` is the run's folder. Raises InputError for input
    that cannot be used, RuntimeError if an experiment failed, KeyboardInterrupt after Ctrl-C.
    """
    from bench.execution.dataframe import run_to_frame  # noqa: PLC0415 - `bench list` needs no pandas

    return run_to_frame(suites, options)
