"""Unpickling of arrays, bytes, texts, numbers, lists, tuples and dicts, and of nothing else.

The published CIFAR files are pickles, and unpickling usually runs what a pickle names. This reader executes the few
opcodes that such data needs on a stack of its own: it imports nothing, calls nothing that a pickle names, and makes
arrays of bytes in the pickle alone, so a crafted file runs nothing and takes no more memory than its size suggests.
"""

import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodes.errors import DataError

RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
FROM_BUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
KNOWN = {*RECONSTRUCT, *FROM_BUFFER, "numpy ndarray", "numpy dtype", "_codecs encode", "__builtin__ bytes"}
NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
PYTHON2_BYTES = ("STRING", "BINSTRING", "SHORT_BINSTRING")  # genops reads them as Latin-1


class _Name(NamedTuple):
    """A name in the pickle, such as "numpy ndarray"; never imported."""

    text: str


class _Dtype(NamedTuple):
    code: str


class _Array:
    """An array that has its value once its state is read."""

    value: NDArray[np.integer] | None = None


def unpickle(data: bytes) -> Any:
    """The content of a pickle, with arrays at its top level or in a dict there. Raises DataError."""
    machine = _Machine(len(data))
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.execute(opcode.name, argument)
        (result,) = machine.stack
    except DataError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DataError(f"not a complete pickle: {error}") from None
    whole = isinstance(result, dict)
    found = {key: _finished(value) for key, value in result.items()} if whole else _finished(result)
    _check_plain(found)
    return found


def _check_plain(found: Any) -> None:
    """Refuse what this reader alone knows: names, types of arrays, and arrays deeper than they may stand."""
    todo, seen = [found], set[int]()
    while todo:
        value = todo.pop()
        if isinstance(value, _Name | _Dtype | _Array):
            raise DataError(
                f"the pickle has {value.text if isinstance(value, _Name) else 'a part of an array'} by itself"
            )
        if isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += [*value.keys(), *value.values()] if isinstance(value, dict) else value


class _Machine:
    """Stack, marks and memo, as the opcodes use them."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self._spare_bytes = size  # that calls may still make
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        push, popped, since_mark = self._push, self._popped, self._since_mark
        self._operations: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys((*NUMBERS, *TEXTS), push),
            **dict.fromkeys(BYTES, lambda value: push(bytes(value))),
            **dict.fromkeys(PYTHON2_BYTES, lambda text: push(text.encode("latin-1"))),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_TUPLE": lambda _: push(()),
            "TUPLE1": lambda _: push(tuple(popped(1))),
            "TUPLE2": lambda _: push(tuple(popped(2))),
            "TUPLE3": lambda _: push(tuple(popped(3))),
            "MARK": lambda _: self._marks.append(len(self.stack)),
            "TUPLE": lambda _: push(tuple(since_mark())),
            "LIST": lambda _: push(since_mark()),
            "DICT": lambda _: push(_pairs(since_mark())),
            "APPEND": lambda _: self._extend(popped(1)),
            "APPENDS": lambda _: self._extend(since_mark()),
            "SETITEM": lambda _: self._update(popped(2)),
            "SETITEMS": lambda _: self._update(since_mark()),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._remember),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda key: push(self._memo[int(key)])),
            "GLOBAL": self._name,
            "STACK_GLOBAL": lambda _: self._name(" ".join(popped(2))),
            "REDUCE": lambda _: self._call(*popped(2)),
            "BUILD": lambda _: push(_with_state(*popped(2))),
        }

    def execute(self, name: str, argument: Any) -> None:
        if name not in self._operations:
            raise DataError(f"the pickle has {name}; expected plain data and arrays")
        self._operations[name](argument)

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _popped(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        if start < (self._marks[-1] if self._marks else 0):
            raise IndexError("a value is missing")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _since_mark(self) -> list[Any]:
        return self._popped(len(self.stack) - self._marks.pop())

    def _remember(self, key: Any) -> None:
        self._memo[int(key)] = self.stack[-1]

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _update(self, items: list[Any]) -> None:
        self._top(dict).update(_pairs(items))

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"no {kind.__name__} to add to")
        return self.stack[-1]

    def _call(self, name: Any, arguments: Any) -> None:
        value = _made(name, arguments)
        self._spare_bytes -= len(value) if isinstance(value, bytes) else 0
        if self._spare_bytes < 0:
            raise DataError("the pickle makes more bytes than it has; expected plain data and arrays")
        self._push(value)

    def _name(self, text: str) -> None:
        if text not in KNOWN:
            raise DataError(f"the pickle names {text.replace(' ', '.')}; expected plain data and arrays")
        self._push(_Name(text))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _made(name: Any, arguments: Any) -> Any:
    """The value of a call: what ``name`` would have made of ``arguments``."""
    text = name.text if isinstance(name, _Name) else ""
    if text in RECONSTRUCT:
        return _Array()
    if text in FROM_BUFFER:
        data, dtype, shape, order = arguments
        return _array(data, dtype, shape, order)
    if text == "numpy dtype":
        code = arguments[0]
        return _Dtype(code.decode("ascii") if isinstance(code, bytes) else code)
    if text == "_codecs encode" and arguments[1] in ("latin1", "latin-1"):
        return arguments[0].encode("latin-1")
    if text == "__builtin__ bytes" and arguments == ():  # so protocol 2 and below write b""
        return b""
    raise DataError("the pickle has a call; expected plain data and arrays")


def _with_state(made: Any, state: Any) -> Any:
    if isinstance(made, _Dtype):
        if state[1] not in ("|", "<", b"|", b"<"):
            raise DataError("the pickle has an array in big-endian order; expected little-endian")
    elif isinstance(made, _Array):
        _, shape, dtype, fortran, data = state
        made.value = _array(data, dtype, shape, "F" if fortran else "C").value
    else:
        raise DataError("the pickle has an object; expected plain data and arrays")
    return made


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if not (isinstance(dtype, _Dtype) and dtype.code in ("u1", "i1", "i4", "i8") and isinstance(data, bytes)):
        raise DataError("the pickle has an array of another type; expected bytes or integers")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or order not in ("C", "F"):
        raise DataError("the pickle has an array without a shape")
    kind = np.dtype(f"<{dtype.code}")
    if math.prod(shape) * kind.itemsize != len(data):
        raise DataError(f"the pickle has an array {tuple(shape)} of {len(data):,} bytes; they must agree")
    array = _Array()
    array.value = np.frombuffer(data, kind).reshape(shape, order=order)
    return array


def _finished(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
