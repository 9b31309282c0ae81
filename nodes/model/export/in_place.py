"""Removal of in-place operations from an exported graph, through views too.

A cut needs values that nothing changes later. Each operation that writes into a tensor becomes a pure one, which
returns the changed tensor; every later reader of that tensor, or of a view of it, reads from the result. Writes into
the model's own parameters and buffers remain: they are state, not values.
"""

import operator
from typing import Any

import torch
from torch import fx

from nodes.errors import ModelError

PLAIN = ("add", "div", "mul", "relu", "sub")  # pure forms with the same gradients, to the bit
COPY = torch.ops.aten.copy_.default
View = tuple[Any, tuple[Any, ...], dict[str, Any]]  # operation (None: a member), arguments after the first, named ones


def changed(base: torch.Tensor, views: tuple[View, ...], operation: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """A copy of ``base`` after the in-place ``operation`` on a view of it, taken by ``views`` in their order."""
    base = target = base.clone()
    for view, others, named in views:
        target = target[others[0]] if view is None else view(target, *others, **named)
    operation(target, *args, **kwargs)
    return base


def pure_graph(graph: fx.Graph, state: set[fx.Node]) -> fx.Graph:
    """A copy of ``graph`` without in-place operations, but for those on ``state``. Raises ModelError.

    The nodes of ``graph`` are aten operations with an example value each, as ``torch.export`` makes them.
    """
    return _Pure(graph, state).graph


class _Pure:
    def __init__(self, graph: fx.Graph, state: set[fx.Node]) -> None:
        self.graph = fx.Graph()
        self._state = state
        self._base: dict[fx.Node, fx.Node] = {}  # what a node is a view of, or has changed
        self._newest: dict[fx.Node, fx.Node] = {}  # a node's present value in the copy
        self._seen: dict[fx.Node, int] = {}  # the changes that this value has seen
        self._changes: dict[fx.Node, int] = {}  # of a node that is no view
        for node in graph.nodes:
            if writes(node):
                self._write(node)
            else:
                self._copy(node)
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or writes(node))

    def _copy(self, node: fx.Node) -> None:
        if node.op == "call_function":
            shown = (given for given in node.all_input_nodes if _storages(given) & _storages(node))
            base = next(shown, None)
            if base is not None and (node.target is not operator.getitem or base in self._base):
                self._base[node] = base  # a member of a list that was made is no view
        owner = self._owner(node)
        self._newest[node] = self.graph.node_copy(node, self._value)
        self._seen[node] = self._changes.setdefault(owner, 0)

    def _value(self, node: fx.Node) -> fx.Node:
        """The present value of ``node``: a view is taken again if what it shows has changed."""
        if writes(node):
            return self._value(self._base[node])
        changes = self._changes[self._owner(node)]
        if self._seen[node] < changes:
            self._newest[node] = self.graph.node_copy(node, self._value)
            self._seen[node] = changes
        return self._newest[node]

    def _write(self, node: fx.Node) -> None:
        target = node.args[0]
        if not isinstance(target, fx.Node) or _written(node) != [0]:
            raise ModelError(f"{node.name} writes into its arguments {_written(node)}; return the results instead")
        self._base[node] = target
        owner = self._owner(target)
        if owner in self._state:
            self.graph.node_copy(node, self._value).meta["writes"] = owner.name
            return
        self._newest[owner] = self._pure(node, target, owner)
        self._changes[owner] += 1
        self._seen[owner] = self._changes[owner]

    def _pure(self, node: fx.Node, target: fx.Node, owner: fx.Node) -> fx.Node:
        args, kwargs = fx.map_arg((node.args[1:], node.kwargs), self._value)
        views = self._views(target, owner)
        source: Any = node.args[1] if node.target is COPY else None
        if not views and source is not None and _same_layout(owner, source):
            return self._value(source)
        plain = None if views else _plain(node)
        if plain is not None:
            made = self.graph.call_function(plain, (self._value(owner), *args), kwargs)
        else:
            given: Any = (self._value(owner), views, node.target, args, kwargs)
            made = self.graph.call_function(changed, given)
        made.meta = dict(node.meta)
        return made

    def _views(self, node: fx.Node, owner: fx.Node) -> tuple[View, ...]:
        """How ``node`` is taken from ``owner``, step by step."""
        if node is owner:
            return ()
        before = self._views(self._base[node], owner)
        if writes(node):
            return before
        if node.args[0] is not self._base[node]:
            raise ModelError(f"{node.name} is changed in place through an argument that is not its first")
        others, named = fx.map_arg((node.args[1:], node.kwargs), self._value)
        return *before, (node.target if isinstance(node.target, torch._ops.OpOverload) else None, others, named)

    def _owner(self, node: fx.Node) -> fx.Node:
        while node in self._base:
            node = self._base[node]
        return node


def writes(node: fx.Node) -> bool:
    """Whether ``node`` is an aten operation that writes into an argument."""
    return bool(_written(node))


def _written(node: fx.Node) -> list[int]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    arguments = node.target._schema.arguments
    return [place for place, each in enumerate(arguments) if each.alias_info is not None and each.alias_info.is_write]


def _plain(node: fx.Node) -> Any:
    """The pure form of ``node`` where it gives the same values and gradients, else None."""
    operation: Any = node.target
    tensors = [given.meta.get("val") for given in node.all_input_nodes]
    dtypes = {value.dtype for value in tensors if isinstance(value, torch.Tensor)}
    name = operation._opname.removesuffix("_")
    if name not in PLAIN or len(dtypes) != 1:
        return None
    return getattr(getattr(torch.ops.aten, name), operation._overloadname, None)


def _same_layout(owner: fx.Node, source: Any) -> bool:
    """Whether a copy of all of ``source`` into all of ``owner`` leaves nothing of ``owner``."""
    old, new = (one.meta.get("val") for one in (owner, source))
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return False
    return old.dtype == new.dtype and old.shape == new.shape and old.stride() == new.stride()


def _storages(node: fx.Node) -> set[int]:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return {each.untyped_storage()._cdata for each in values if isinstance(each, torch.Tensor)}
