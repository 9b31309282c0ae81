"""Which link traces come with the package? Made by ``netem.traces.generate``, not measured anywhere."""

from importlib import resources
from pathlib import Path


def packaged() -> dict[str, Path]:
    """The shipped traces by name: one minute each, in steps of 100 ms; read them with ``netem.trace.read``."""
    folder = Path(str(resources.files(__name__)))
    return {path.stem: path for path in sorted(folder.glob("*.csv"))}
