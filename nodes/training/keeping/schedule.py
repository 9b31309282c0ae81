"""Training steps before which nodes keep their state, to go on from there if one of them has died.

The first message of a training step reaches a node when all gradients of the step before have returned to the UE, and
tests have ended: nothing is on its way, so the states of all nodes before one step fit each other, with all bytes sent
until then.
"""

from nodes.spec.job import KeepSpec


class Keeping:
    """Before which steps the state is kept: the first that this node sees, and each ``every_steps``-th of all."""

    def __init__(self, spec: KeepSpec | None = None) -> None:
        self._spec, self._begun = spec, False

    def due(self, step: int) -> bool:
        """Whether to keep the state before ``step``, counted over all epochs."""
        first, self._begun = not self._begun, True
        return self._spec is not None and (first or step % self._spec.every_steps == 0)
