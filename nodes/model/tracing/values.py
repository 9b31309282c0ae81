"""Values of a trace: tensors without data, and numbers that follow from the size of the batch."""

import operator
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import fx

from nodes.errors import one_line

BATCHES = (
    67,
    3,
    8,
    32,
    128,
    1024,
)  # besides the smallest: the second one, and those for which decisions hold


class UntraceableError(Exception):
    """Code of a model that one graph cannot stand for; ``where`` is its file and line, if known."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.where = where


class UnseenError(UntraceableError):
    """Code of a model whose effect no graph shows, so that no other front end is asked."""


REASON_CHARACTERS = 200  # the most of one; messages of compilers hold whole tracebacks


def reason_of(error: Exception) -> str:
    """Why a module cannot be traced."""
    reason = str(error) if isinstance(error, UntraceableError) else one_line(error)
    return reason if len(reason) <= REASON_CHARACTERS else f"{reason[:REASON_CHARACTERS]} ..."


class WrongInputError(Exception):
    """A module that cannot run on what it is given."""


class Number:
    """A number that differs with the size of the batch: its values, and the node that computes it.

    Its truth and its comparisons must be the same for all batches, else they decide something that one graph cannot.
    """

    __hash__ = None  # type: ignore[assignment]  # caches must not keep it
    __class__ = property(lambda self: type(self.values[0]))  # isinstance(number, int)

    def __init__(self, values: tuple[Any, ...], make: Callable[[], fx.Node], tracer: Any) -> None:
        self.values, self.tracer = values, tracer
        self._make = make
        self._made: fx.Node | None = None

    @property
    def node(self) -> fx.Node:
        """The node that computes the number, made when first needed."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def __bool__(self) -> bool:
        truths = {bool(value) for value in self.values}
        if len(truths) > 1:
            raise UntraceableError("a decision on the size of the batch")
        return truths.pop()

    def __index__(self) -> int:
        if not isinstance(self.values[0], int):
            raise TypeError("not an integer")
        self.tracer.taken_as_integer(self)
        return self.values[0]

    def _refuse(self, *_: Any) -> Any:
        raise UntraceableError("a number that follows from the size of the batch, used outside of torch")

    __int__ = __float__ = __complex__ = __trunc__ = __floor__ = __ceil__ = __round__ = _refuse

    def __repr__(self) -> str:
        return f"<number {self.values[0]} for the smallest batch>"


class Sizes(tuple[Any, ...]):
    """A shape in which some numbers follow from the size of the batch."""

    __class__ = property(lambda self: torch.Size)  # isinstance(shape, torch.Size)
    burn: Callable[[str], None]

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if not isinstance(found, Number):
            self.burn("getitem")
        return sizes(found, self.burn) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            if not isinstance(item, Number):
                self.burn("getitem")
            yield item

    def __add__(self, other: Any) -> Any:
        return sizes(tuple.__add__(self, tuple(other)), self.burn)

    def __radd__(self, other: Any) -> Any:
        return sizes((*other, *tuple.__iter__(self)), self.burn)

    def numel(self) -> Any:
        """The product of all."""
        product: Any = 1
        for item in tuple.__iter__(self):
            product = product * item
        return product


def sizes(items: tuple[Any, ...], burn: Callable[[str], None]) -> Any:
    """``items`` as torch.Size, or as Sizes where a number differs with the batch."""
    if not any(isinstance(item, Number) for item in tuple.__iter__(items)):
        return torch.Size(items)
    made = Sizes(items)
    made.burn = burn
    return made


class Members(tuple[Any, ...]):
    """Several results of one operation; ``take`` makes the node of one where it is read."""

    take: Callable[[Any], Any]

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return tuple(self.take(item) for item in found) if isinstance(index, slice) else self.take(found)

    def __iter__(self) -> Iterator[Any]:
        return map(self.take, super().__iter__())


class Traced(torch.Tensor):
    """A tensor without data that stands for one of the model; its operators are recorded by ``Traced.tracer``."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # a built-in function
    __hash__ = torch.Tensor.__hash__
    __class__ = property(lambda self: torch.Tensor)  # x.__class__ is torch.Tensor
    tracer: Any = None


def plain_type(value: Any) -> type:
    """The type that ``value`` of a trace has where the model runs."""
    kind = type(value)
    if kind is Number:
        return type(value.values[0])
    return {Traced: torch.Tensor, Sizes: torch.Size, Members: tuple}.get(kind, kind)


class _PlainTypes(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return plain_type(args[0]) if len(args) == 1 else type(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)


class PlainType(metaclass=_PlainTypes):
    """``type`` for the code of a model: ``type(x.shape[0]) is int`` decides as where it runs."""


IN_PLACE = {
    getattr(operator, name): getattr(operator, f"__{name[3:]}")
    for name in dir(operator)  # __iadd__ and __add__ and so on
    if name.startswith("__i") and hasattr(operator, f"__{name[3:]}")
}
REFLECTED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def _method(name: str, function: Callable[..., Any], reflected: bool = False) -> None:
    original = getattr(torch.Tensor, name, None)
    if original is None:
        return

    def recorded(self: Traced, *others: Any) -> Any:
        if Traced.tracer is None or Traced.tracer.executing:
            return original(self, *others)
        operands = (*others, self) if reflected else (self, *others)
        return Traced.tracer.record("call_function", function, operands, {})

    setattr(Traced, name, recorded)


for _name in (*REFLECTED, *COMPARISONS):
    _method(f"__{_name}__", getattr(operator, f"__{_name}__"))
for _name in REFLECTED:
    _method(f"__r{_name}__", getattr(operator, f"__{_name}__"), reflected=True)
for _function in IN_PLACE:
    _method(f"__{_function.__name__}__", _function)
for _name in ("getitem", "setitem", "neg", "pos", "invert"):
    _method(f"__{_name}__", getattr(operator, f"__{_name}__"))


def _arithmetic(name: str, reflected: bool = False) -> None:
    function = getattr(operator, f"__{name}__")

    def computed(self: Number, *others: Any) -> Any:
        if not all(isinstance(other, (int, float, Number)) for other in others):
            return NotImplemented
        operands = (*others, self) if reflected else (self, *others)
        return self.tracer.number(function, operands)

    setattr(Number, f"__r{name}__" if reflected else f"__{name}__", computed)


for _name in (*REFLECTED, *COMPARISONS, "neg", "pos", "abs"):
    _arithmetic(_name)
for _name in REFLECTED:
    if _name != "matmul":
        _arithmetic(_name, reflected=True)


def user_frame() -> str:
    """File and line of the innermost code that is the user's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        place = frame.f_code.co_filename
        if not is_internal(place):
            return f"{place}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


_INTERNAL = (str(torch.__path__[0]), __file__.rpartition("/")[0], "<")
_LIBRARY = operator.__file__.rpartition("/")[0]


def is_internal(path: str) -> bool:
    """Whether the file ``path`` is Python's, torch's or of this package."""
    return path.startswith(_INTERNAL) or (path.startswith(_LIBRARY) and "site-packages" not in path)


def user_line(error: BaseException) -> str:
    """File and line of the innermost code in the traceback of ``error`` that is the user's."""
    where, trace = "", error.__traceback__
    while trace is not None:
        place = trace.tb_frame.f_code.co_filename
        if not is_internal(place):
            where = f"{place}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where
