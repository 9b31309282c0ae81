"""Moments between two training steps at which nodes keep their state or their account, to go on from there.

The first message of a training step reaches a node when all gradients of the step before have returned to the UE, and
tests have ended: nothing is on its way, so the states of all nodes before one step fit each other, with all bytes sent
until then.
"""

from typing import Any

from nodes.runtime.actions import Action
from nodes.spec.job import Job
from nodes.training.keeping.state import KeepAccount, KeepStep


class Keeping:
    """What is kept before which steps.

    The state is kept before the first step that this node sees and each ``every_steps``-th of all, if the job keeps
    steps; the account before the first of an epoch, if it has checkpoints.
    """

    def __init__(self, job: Job | None = None) -> None:
        self._every = job.keep.every_steps if job and job.keep else None
        self._counts = job is not None and job.checkpoint is not None and job.keepable
        self._begun = False

    def before(self, step: int, epoch: int | None, progress: Any = None) -> list[Action]:
        """What to keep before ``step``, counted over all epochs; ``epoch`` epochs were trained, None within one."""
        first, self._begun = not self._begun, True
        keeps_step = self._every is not None and (first or step % self._every == 0)
        counts = self._counts and epoch is not None
        return [
            *([KeepAccount(epoch)] if counts and epoch is not None else []),
            *([KeepStep(step, progress)] if keeps_step else []),
        ]
