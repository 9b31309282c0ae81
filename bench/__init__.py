"""SplitMEC's benchmark runner. ``bench.run("pipeline", scale="smoke")`` is ``bench run`` for notebooks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run"]


def run(*suites: str, **options: Any) -> "pd.DataFrame":
    """Run suites as ``bench run`` does.

    Args:
        suites: Paths of suites, or names of packaged ones.
        options: The options of ``bench run`` by name: scale, out, seed, only (one glob or several), device, shaping,
            data, jobs, resume, allow_uncalibrated.

    Returns:
        All records of the run, one a row; ``attrs["out"]`` is the folder of the run.

    Raises:
        InputError: An input cannot be used; found before anything runs.
        RuntimeError: An experiment failed; the records of the other cases are in the folder of the run.
        KeyboardInterrupt: Ctrl-C was pressed; the cases that had ended are recorded.
    """
    from bench.execution.dataframe import run_to_frame  # noqa: PLC0415  (pandas, which `bench list` does not need)

    return run_to_frame(suites, options)
