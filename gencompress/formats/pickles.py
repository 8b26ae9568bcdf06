"""Pickles read as data: an interpreter that builds lists, dicts and records, and can call nothing.

A pickle is a program for a stack machine, and Python's own machine imports and calls what the program names. This one
knows the few names that checkpoints of networks need, each mapped to a function of this file that only puts values
into a record. Every other name, and every instruction that checkpoints do not need, is refused.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

import numpy as np

from gencompress.errors import FormatError
from gencompress.formats.storage import STORAGE_TYPES, StoredTensor

MAX_INSTRUCTIONS = 300_000  # of a file in all; NVIDIA's at 1024 px have some 80,000
MAX_STACK = 20_000  # pickles fill lists and dicts a thousand values at a time

_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, int, float, bytes, bool, type(None))  # hashed in constant time; nested tuples take exponential time


class Named(NamedTuple):
    """A class or function that a pickle names. It is not imported."""

    name: str


class StoredModule(NamedTuple):
    """A network module as NVIDIA's files hold it: the name of its class, and its attributes."""

    kind: str
    state: dict[str, Any]


class Attributes(dict[str, Any]):
    """The attributes of an ``argparse.Namespace``."""


@dataclass(frozen=True, eq=False, slots=True)
class _Dtype:
    """A type of numpy."""

    name: str


class _Array:
    """An array of numpy. Networks keep their weights elsewhere, so its content is passed over."""


Persistent = Callable[[Any], Any]


class Readable(Protocol):
    """A position in bytes that are at hand: BytesIO or mmap."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; not more is allocated than there are."""

    def readline(self) -> bytes:
        """Up to the end of the line."""

    def tell(self) -> int:
        """The position."""


@dataclass(eq=False, slots=True)
class Allowance:
    """Instructions that all pickles of a file together may still have."""

    left: int = MAX_INSTRUCTIONS

    def spend(self) -> None:
        """Take one. ValueError if none is left."""
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it has over {MAX_INSTRUCTIONS:,} instructions")


class Interpreter:
    """Runs pickles, any number of them one after the other.

    Args:
        path: of the file, for messages.
        persistent: what a persistent id stands for.
        calls: by name, what stands for a function or class that is called with arguments; `CALLS` plus those of the
            container.
        allowance: shared with other interpreters of the same file.

    Raises:
        FormatError: at `run`: the pickle is malformed, too long, or asks for something that no checkpoint needs.
    """

    def __init__(
        self, path: Path, persistent: Persistent, calls: Mapping[str, Callable[..., Any]], allowance: Allowance
    ) -> None:
        self.path, self.persistent, self.calls, self.allowance = path, persistent, calls, allowance

    def run(self, file: Readable) -> Any:
        """The value of the pickle that starts at the position of `file`, which ends up behind it."""
        machine = _Machine(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # odd escapes in names, which are no names then
                for opcode, argument in self._instructions(file):
                    machine.step(opcode, argument)
            (value,) = machine.stack
            if isinstance(value, Named):
                raise ValueError("it holds a name and nothing else")
            return value
        except FormatError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            text = str(error)[:120]
            raise FormatError(f"{self.path}: the pickle in it is malformed ({type(error).__name__}: {text})") from error

    def _instructions(self, file: Readable) -> Iterator[tuple[str, Any]]:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            self.allowance.spend()
            yield opcode.name, argument

    def find(self, name: str) -> Named:
        """The name, if checkpoints need it."""
        if name not in self.calls and name not in _EMPTY and name not in _TYPES:
            for start, what in _FOREIGN.items():
                if name.startswith(start):
                    raise FormatError(f"{self.path}: {what}; only networks of PyTorch can be converted")
            raise FormatError(
                f"{self.path}: the pickle in it asks for {name[:100]!r}, which no checkpoint of a supported network "
                f"needs; nothing was executed"
            )
        return Named(name)


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self, owner: Interpreter) -> None:
        self.owner = owner
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one instruction."""
        stack = self.stack
        if len(stack) + len(self.marks) > MAX_STACK:
            raise ValueError("it is nested too deeply")
        if opcode in _VALUES:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _PUTS:
            self.memo[len(self.memo) if argument is None else int(argument)] = stack[-1]
        elif opcode in _GETS:
            stack.append(self.memo[int(argument)])
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            stack[len(stack) - count :] = [tuple(self._top(count))]
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise FormatError(f"{self.owner.path}: the pickle in it has a {opcode}, which no checkpoint needs")

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count + (self.marks[-1] if self.marks else 0):
            raise ValueError("the stack is empty")
        return self.stack[len(self.stack) - count :]

    def _pop(self) -> Any:
        (value,) = self._top(1)
        del self.stack[-1]
        return value

    def _pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _discard(self, _: Any) -> None:
        self._pop()

    def _discard_mark(self, _: Any) -> None:
        self._pop_mark()

    def _duplicate(self, _: Any) -> None:
        self.stack.extend(self._top(1))

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._pop_mark())

    def _dict(self, _: Any) -> None:
        values = self._pop_mark()
        self.stack.append({})
        self._fill(values)

    def _append(self, _: Any) -> None:
        value = self._pop()
        self._target(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._pop_mark()
        self._target(list).extend(values)

    def _set_item(self, _: Any) -> None:
        values = self._top(2)
        del self.stack[-2:]
        self._fill(values)

    def _set_items(self, _: Any) -> None:
        self._fill(self._pop_mark())

    def _fill(self, values: list[Any]) -> None:
        target = self._target(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def _target(self, kind: type) -> Any:
        (value,) = self._top(1)
        if not isinstance(value, kind):
            raise ValueError(f"a {kind.__name__} is filled that is none")
        return value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self.owner.find(f"{module}.{name}"))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name is no text")
        self.stack.append(self.owner.find(f"{module}.{name}"))

    def _persistent(self, _: Any) -> None:
        self.stack.append(self.owner.persistent(self._pop()))

    def _reduce(self, _: Any) -> None:
        arguments, callee = self._pop(), self._pop()
        if not isinstance(callee, Named) or not isinstance(arguments, tuple):
            raise ValueError("something is called that is no function")
        if callee.name not in self.owner.calls:
            raise ValueError(f"{callee.name} is called")
        self.stack.append(self.owner.calls[callee.name](*arguments))

    def _new(self, _: Any) -> None:
        arguments, kind = self._pop(), self._pop()
        if not isinstance(kind, Named) or kind.name not in _EMPTY or arguments != ():
            raise ValueError("an object is made of no class, or with arguments")
        self.stack.append(_EMPTY[kind.name]())

    def _build(self, _: Any) -> None:
        state = self._pop()
        (target,) = self._top(1)
        if isinstance(target, Attributes) and isinstance(state, dict):
            target.update(state)
        elif isinstance(target, _Dtype):
            if state[1] not in ("<", "|", "="):
                raise ValueError("numbers of numpy are big-endian")
        elif type(target) not in (
            dict,
            _Array,
        ):  # what is set on a dict are attributes beside its content, such as versions
            raise ValueError("something gets attributes that has none")


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._discard,
    "POP_MARK": _Machine._discard_mark,
    "DUP": _Machine._duplicate,
    "EMPTY_LIST": _Machine._empty_list,
    "EMPTY_DICT": _Machine._empty_dict,
    "EMPTY_SET": _Machine._empty_list,  # sets are names of buffers, which nothing here looks up
    "ADDITEMS": _Machine._appends,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "BINPERSID": _Machine._persistent,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._new,
    "BUILD": _Machine._build,
}


def _key(key: Any) -> Any:
    if not isinstance(key, _KEYS):
        raise ValueError(f"a {type(key).__name__} is the key of a dict")
    return key


def _items(pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _list_of(values: Any = ()) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        raise ValueError("a set is made of no list")
    return list(values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    return StoredTensor(storage, offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


def _module(meta: Any) -> StoredModule:
    kind, state = meta["class_name"], meta["state"]
    if not isinstance(kind, str) or not isinstance(state, dict):
        raise ValueError("a module has no attributes")
    return StoredModule(kind, state)


def _dtype(name: Any, *_: Any) -> _Dtype:
    if name not in _NUMPY_TYPES:
        raise ValueError("numbers are of a type of numpy that networks do not have")
    return _Dtype(name)


def _array(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype):
        raise ValueError("a number of numpy has no type")
    (value,) = np.frombuffer(data, f"<{dtype.name}")
    return value.item()


def _latin1(text: Any, encoding: Any) -> bytes:
    """How the second version of pickles, which has no bytes, writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are no text in latin1")
    return text.encode("latin1")


CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _items,
    "builtins.set": _list_of,
    "__builtin__.set": _list_of,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch_utils.persistence._reconstruct_persistent_obj": _module,
    "_codecs.encode": _latin1,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "collections.OrderedDict": dict,
    "dnnlib.util.EasyDict": dict,
    "argparse.Namespace": Attributes,
}
_NUMPY_TYPES = ("f8", "f4", "f2", "i8", "i4", "u1", "b1")
_TYPES = frozenset(("numpy.ndarray", *STORAGE_TYPES))
_FOREIGN = {"dnnlib.tflib.": "a network of TensorFlow"}
