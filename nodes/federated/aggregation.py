"""Aggregation of parts by a scheme's hooks, with the result of the last time at hand."""

from collections.abc import Sequence
from functools import partial

from nodes.errors import NodeError, ProtocolError, one_line
from nodes.federated.client_worker import job_of
from nodes.federated.schemes import Scheme, Update
from nodes.model.boundary import Tensors
from nodes.spec.federation import Federation
from nodes.training.segment import Segment
from nodes.user_code import contained


class Aggregation:
    """Hook ``hook`` of ``scheme`` for the client's (0) or the server's (1) ``part`` of the federation's model."""

    def __init__(self, federation: Federation, scheme: Scheme, hook: str, part: int) -> None:
        self.last: Tensors | None = None  # result; what is averaged elsewhere may take its place
        self._rule, self._named = getattr(scheme, hook), f"{hook} of scheme {federation.scheme.name}"
        self._overridden = getattr(self._rule, "__func__", self._rule) is not getattr(Scheme, hook)
        self._initial = partial(_initial, federation, part)

    def __call__(self, updates: Sequence[Update]) -> Tensors:
        """The aggregate of ``updates``.

        Raises:
            NodeError: The hook fails, or returns other tensors than those.
            ProtocolError: A client or edge server gave other tensors than the part has.
        """
        self._check(updates)
        try:
            previous = (self.last or self._initial()) if self._overridden else {}
            with contained():
                result: Tensors = self._rule(updates, previous)
            expected, got = _shapes(updates[0].state), _shapes(result)
        except Exception as error:  # a user's hook may fail in any way
            raise NodeError(f"{self._named}: {one_line(error)}") from error
        if odd := [name for name in expected | got if expected.get(name) != got.get(name)]:
            raise NodeError(f"{self._named}: {odd[0]} is {got.get(odd[0])}, expected {expected.get(odd[0])}")
        self.last = result
        return result

    def _check(self, updates: Sequence[Update]) -> None:
        """Find the update that differs from the part, if not all are alike."""
        shapes = [_shapes(update.state) for update in updates]
        if all(one == shapes[0] for one in shapes):
            return
        due = _shapes(self._initial())
        for update, got in zip(updates, shapes, strict=True):
            if odd := sorted(name for name in due | got if due.get(name, "absent") != got.get(name, "absent")):
                name = odd[0]
                what = f"{name} is {got.get(name, 'absent')}, expected {due.get(name, 'absent')}"
                raise ProtocolError(f"{self._named}: part of {update.client}: {what}")


def _initial(federation: Federation, part: int) -> Tensors:
    return Segment(job_of(federation), part).state()


def _shapes(state: Tensors) -> dict[str, str]:
    return {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in state.items()}
