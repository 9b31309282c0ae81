"""What is replaced in torch and Python while a model is traced, and put back afterwards."""

import builtins
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointFunction

from nodes.model.tracing.recorder import Recorder
from nodes.model.tracing.tree import any_leaf
from nodes.model.tracing.values import PlainType, Traced, UnseenError, is_internal, user_frame


@dataclass(frozen=True)
class Applied:
    """A call of an autograd function, which brings its own backward pass."""

    function: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    @property
    def __name__(self) -> str:
        name: str = self.function.__name__
        return name


@contextmanager
def patched(recorder: Recorder, model: nn.Module, call_module: Callable[..., Any]) -> Iterator[None]:
    """Let ``recorder`` see calls of modules (``call_module`` is given them), autograd functions, ``len`` and hooks.

    ``type`` in the code of the classes of ``model`` tells what it does where the model runs.
    """
    with ExitStack() as stack:
        stack.enter_context(_replaced(nn.Module, "__call__", call_module))
        stack.enter_context(_replaced(torch.autograd.Function, "apply", _apply(recorder)))
        stack.enter_context(_replaced(builtins, "len", _length(recorder)))
        stack.enter_context(_replaced(saved_tensors_hooks, "__enter__", _hooks_on_saved(recorder)))
        for holder in (torch, torch.random):
            stack.enter_context(_replaced(holder, "set_rng_state", _generator_set(recorder)))
        for (_, name), namespace in list(fx._symbolic_trace._wrapped_fns_to_patch.items()):
            if name in namespace:
                stack.callback(namespace.__setitem__, name, namespace[name])
                namespace[name] = _whole(recorder, namespace[name])
        for namespace in _namespaces(model):
            stack.callback(namespace.pop, "type")
            namespace["type"] = PlainType
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """Globals of the users' classes in ``model``, those that have no ``type`` of their own."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__ if "forward" in vars(kind)}
    found = {}
    for kind in classes:
        forward = inspect.unwrap(vars(kind)["forward"])
        code, namespace = getattr(forward, "__code__", None), getattr(forward, "__globals__", {})
        if code is not None and not is_internal(code.co_filename) and "type" not in namespace:
            found[id(namespace)] = namespace
    return list(found.values())


def _apply(recorder: Recorder) -> Any:
    descriptor = vars(torch.autograd.Function)["apply"]

    def original(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return descriptor.__get__(None, cls)(*args, **kwargs)

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if recorder.executing or not recorder.follows((args, kwargs)):
            return original(cls, *args, **kwargs)
        if cls is CheckpointFunction:  # its backward pass computes the same values again
            function, _, *inputs = args
            trained = any_leaf(lambda value: isinstance(value, torch.Tensor) and value.requires_grad, inputs)
            with nullcontext() if trained else torch.no_grad():
                return function(*inputs)
        return recorder.record(
            "call_function", Applied(cls), args, kwargs, run=lambda *args, **kwargs: original(cls, *args, **kwargs)
        )

    return classmethod(apply)


def _length(recorder: Recorder) -> Callable[[Any], Any]:
    original = builtins.len

    def length(of: Any) -> Any:
        return recorder.length(of) if type(of) is Traced and not recorder.executing else original(of)

    return length


def _hooks_on_saved(recorder: Recorder) -> Callable[[Any], Any]:
    original = saved_tensors_hooks.__enter__

    def enter(hooks: Any) -> Any:
        checkpoints = type(hooks).__module__ == "torch.utils.checkpoint"  # the same values, computed again
        if not recorder.executing and not checkpoints:
            raise UnseenError("hooks on tensors saved for the backward pass", user_frame())
        return original(hooks)

    return enter


def _generator_set(recorder: Recorder) -> Callable[[Any], Any]:
    original = torch.random.set_rng_state

    def set_state(state: Any) -> Any:
        if not recorder.executing:
            raise UnseenError("the state of torch's generator is set, as by fork_rng", user_frame())
        return original(state)

    return set_state


def _whole(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which ``torch.fx.wrap`` marked, as one operation."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if recorder.executing or not recorder.follows((args, kwargs)):
            return function(*args, **kwargs)
        return recorder.record("call_function", function, args, kwargs)

    return call


@contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(holder)[name]
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


class Draws:
    """The states of the generators outside of torch."""

    def __init__(self) -> None:
        self._random = random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy: Any = numpy and numpy.random.get_state()

    def restore(self) -> None:
        random.setstate(self._random)
        if self._numpy:
            sys.modules["numpy"].random.set_state(self._numpy)

    def changed(self) -> bool:
        """Whether numbers were drawn since."""
        if random.getstate() != self._random:
            return True
        if not self._numpy:
            return False
        _, keys, place, *rest = sys.modules["numpy"].random.get_state()
        return place != self._numpy[2] or rest != list(self._numpy[3:]) or bool((keys != self._numpy[1]).any())


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put back all generators of random numbers afterwards."""
    others = Draws()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch has no types here
    devices = list(range(torch.cuda.device_count())) if started else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            others.restore()
