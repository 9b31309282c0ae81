"""Tensors of a trace that share a storage: a change of one becomes a new tensor, from which the others are read."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from nodes.model.tracing.tree import _Marker, map_tree
from nodes.model.tracing.values import UntraceableError, user_frame

SELF = _Marker("SELF")  # in a step: the tensor that is viewed
Step = tuple[str, Any, Any]  # operation, target, (args, kwargs)


@dataclass(eq=False)
class Entry:
    """A tensor of a trace: its values for two batches, and the node that makes it."""

    first: torch.Tensor
    second: torch.Tensor
    make: Callable[[], fx.Node]
    named: str = ""  # name of a parameter or buffer
    fixed: bool = False  # whether it follows from buffers alone
    source: torch.Tensor | None = None  # of a constant
    view: bool = False  # whether torch takes it for a view, whose change in place is one of what it views
    node: fx.Node | None = None
    group: "_Group" = field(init=False)  # given by ``Aliases.made``
    steps: tuple[Step, ...] | None = ()  # from the group's root; None if unknown
    seen: int = 0  # version of the group that ``node`` shows
    holders: list[Any] = field(default_factory=list)

    @property
    def constant(self) -> bool:
        """Whether this is a constant that no operation of the model has changed."""
        return self.source is not None and not self.group.version


@dataclass(eq=False)
class _Group:
    root: Entry
    version: int = 0
    members: int = 0
    writes: list[tuple[tuple[Step, ...], fx.Node]] = field(default_factory=list)  # that the root does not show yet


class Aliases:
    """The groups of tensors that share a storage. ``emit`` records a step and returns its node."""

    def __init__(self, emit: Callable[..., fx.Node]) -> None:
        self._emit = emit
        self._groups: dict[int, _Group] = {}

    def made(self, entry: Entry, step: Any = None) -> None:
        """Put a new ``entry`` into its group; ``step`` is (op, target, arguments, place in the result, ...)."""
        storage = entry.first.untyped_storage()._cdata
        entry.group = self._groups.setdefault(storage, _Group(entry))
        entry.group.members += 1
        entry.seen = entry.group.version
        if entry.group.root is not entry:
            entry.steps = _steps(entry.group, step)

    def node(self, entry: Entry) -> fx.Node:
        """The node that shows ``entry`` as it is now."""
        self.refresh(entry)
        if entry.node is None:
            entry.node = entry.make()
        entry.node.meta.setdefault("value", entry.first)
        return entry.node

    def refresh(self, entry: Entry) -> None:
        """Show in ``entry`` what was changed through other names of its storage."""
        group = entry.group
        if entry.seen == group.version:
            return
        if entry is group.root:
            node = entry.node or entry.make()
            for steps, value in group.writes:
                if any(op == "call_module" for op, _, _ in steps):
                    raise UntraceableError("a change in place of what a module returned, a view", user_frame())
                node = self._emit("call_function", write_through, ((node, value, steps), {}))
            entry.node, group.writes = node, []
        else:
            node = self.node(group.root)
            if entry.steps is None:
                raise UntraceableError("a change in place of a tensor that shares its memory", user_frame())
            for op, target, arguments in entry.steps:
                node = self._emit(op, target, _filled(arguments, node))
            entry.node = node
        entry.seen = group.version

    def changed(self, entry: Entry, node: fx.Node) -> None:
        """``node`` makes the value of ``entry``, which was up to date, after a change in place."""
        self._check(entry)
        group = entry.group
        group.version += 1
        entry.node, entry.seen = node, group.version
        if entry is not group.root:
            group.writes.append((entry.steps or (), node))

    def _check(self, entry: Entry) -> None:
        """Refuse changes in place that one graph cannot stand for."""
        group = entry.group
        if group.root.named:
            raise UntraceableError(f"a change of {group.root.named}, a parameter or buffer, in place", user_frame())
        if entry is not group.root and entry.steps is None:
            raise UntraceableError("a change in place of a tensor that shares its memory", user_frame())
        if entry.source is not None and entry.source.untyped_storage().nbytes() != entry.source.nbytes:
            raise UntraceableError("a change in place of a view of a constant", user_frame())

    def has_steps(self, entry: Entry) -> bool:
        """Whether operations, none of them a module, make ``entry`` of the tensor that it views."""
        return entry.steps is not None and not any(op == "call_module" for op, _, _ in entry.steps)

    def changed_through(self, entry: Entry, call: Step, name: str) -> None:
        """Let ``call`` change ``entry``, a view that ``has_steps``, in place: torch changes what it views."""
        self._check(entry)
        root = entry.group.root
        call = map_tree(lambda leaf: SELF if leaf is entry else leaf, call)
        base = self.node(root)
        root.node = self._emit("call_function", change_through, ((base, entry.steps, call), {}), name)
        entry.group.version += 1
        root.seen = entry.group.version

    def reshaped(self, entry: Entry, node: fx.Node, step: Step) -> None:
        """``node`` makes ``entry`` after ``step`` changed its shape in place."""
        if entry is not entry.group.root:
            entry.steps = _steps(entry.group, step)
        elif entry.group.members > 1:
            raise UntraceableError("a change of the shape, in place, of a tensor that has views", user_frame())
        entry.node = node


def _steps(group: _Group, step: Any) -> tuple[Step, ...] | None:
    """The steps from the root of ``group`` to what ``step`` made; None if that is not known."""
    if step is None:
        return None
    op, target, arguments, *places = step
    parents: list[Entry] = []

    def without_parent(leaf: Any) -> Any:
        if isinstance(leaf, Entry) and leaf.group is group:
            parents.append(leaf)
            return SELF if leaf is parents[0] else leaf
        return leaf

    arguments = map_tree(without_parent, arguments)
    if not parents or parents[0].steps is None:
        return None
    items: list[Step] = [("call_function", operator.getitem, ((SELF, place), {})) for place in places]
    return (*parents[0].steps, (op, target, arguments), *items)


def _filled(arguments: Any, value: Any) -> Any:
    return map_tree(lambda leaf: value if leaf is SELF else leaf, arguments)


def write_through(base: torch.Tensor, value: torch.Tensor, steps: tuple[Step, ...]) -> torch.Tensor:
    """A copy of ``base`` whose view by ``steps`` holds ``value``."""
    made = base.clone()
    _viewed(made, steps).copy_(value)
    return made


def change_through(base: torch.Tensor, steps: tuple[Step, ...], call: Step) -> torch.Tensor:
    """A copy of ``base`` after ``call`` changed its view by ``steps`` in place."""
    made = base.clone()
    _call(call, _viewed(made, steps) if steps else made.view_as(made))
    return made


def _viewed(base: torch.Tensor, steps: tuple[Step, ...]) -> torch.Tensor:
    view = base
    for step in steps:
        view = _call(step, view)
    return view


def _call(step: Step, view: torch.Tensor) -> Any:
    op, target, arguments = step
    args, kwargs = _filled(arguments, view)
    return getattr(args[0], target)(*args[1:], **kwargs) if op == "call_method" else target(*args, **kwargs)
