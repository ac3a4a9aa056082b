"""The pickle inside a file of torch.save, read without being trusted.

It is never handed to `pickle`. Its instructions are walked one by one by a machine that knows containers,
plain values and tensors; it imports nothing and calls nothing of the file's choosing, so the worst that a
hostile file gets is one line of refusal.
"""

import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np


class InteropError(ValueError):
    """Weights that cannot be taken over; one line that says why and what to do."""


SAVE_AGAIN = "save the weights alone, torch.save(model.state_dict(), path)"

# Their storage classes -> the dtypes of the numbers, which are little-endian.
_STORAGES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}


# Beyond these the product of a shape may take for ever: a pickle's integers have any size.
_MOST_DIMENSIONS, _LONGEST = 32, 2**48


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers that tensors view."""

    data: bytes
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize


def read_pickle(pickled: bytes, open_storage: Callable[[str, np.dtype, int], Storage]) -> Any:
    """What was pickled: dicts, lists, tuples, plain values; tensors as read-only numpy arrays.

    `open_storage(key, dtype, numel)` gives the storages; `key` is all digits, `numel` not negative. Raises
    InteropError for a pickle that asks for anything else, other exceptions for one that is damaged.
    """
    return _Machine(open_storage).run(pickled)


@dataclasses.dataclass(frozen=True)
class _Named:
    """A class or function that the pickle names. Only the name is kept: nothing is looked up."""

    name: str


class _OrderedDict(dict):
    """Theirs. Unlike other containers it may be given attributes, which are dropped."""


def _ordered_dict(*items: Any) -> _OrderedDict:
    """OrderedDict(), as it is pickled: its items are set afterwards, one by one."""
    if items:
        raise InteropError("makes an OrderedDict of something; refused")
    return _OrderedDict()


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> np.ndarray:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, ...)."""
    if not isinstance(storage, Storage):
        raise InteropError("has a tensor without a storage; refused")
    if not (_whole((offset,)) and _whole(shape) and _whole(stride) and len(shape) == len(stride)):
        raise InteropError("has a tensor whose shape, strides or offset are no whole numbers from 0; refused")
    if len(shape) > _MOST_DIMENSIONS or max(shape, default=0) > _LONGEST:
        raise InteropError("has a tensor of an absurd shape; refused")
    if not math.prod(shape):
        return np.ndarray(shape, storage.dtype, b"")
    where = f"has a tensor of shape {shown(str(tuple(shape)))}"
    if offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) >= len(storage):
        raise InteropError(f"{where} that reaches past its storage; refused")
    if math.prod(shape) > len(storage):
        raise InteropError(f"{where} over only {len(storage)} numbers; save it with .contiguous()")
    size = storage.dtype.itemsize
    return np.ndarray(shape, storage.dtype, storage.data, offset * size, [step * size for step in stride])


def _whole(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(type(n) is int and n >= 0 for n in values)


def _parameter(data: Any, *_: Any) -> Any:
    """_rebuild_parameter(data, requires_grad, hooks)."""
    return data


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}


class _Machine:
    """A stack, the stacks that MARK has set aside, and a memo. A method an instruction."""

    def __init__(self, open_storage: Callable[[str, np.dtype, int], Storage]):
        self._open_storage = open_storage
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in _INSTRUCTIONS:
                raise InteropError(
                    f"has the pickle instruction {opcode.name}, which no tensor needs; refused: {SAVE_AGAIN}"
                )
            _INSTRUCTIONS[opcode.name](self, argument)
        return self._pop()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def tuple_since_mark(self) -> None:
        self.push(tuple(self._since_mark()))

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self) -> None:
        self._extend([self._pop()])

    def appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise InteropError("appends to what is no list; refused")
        self._stack[-1].extend(items)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def set_items(self) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise InteropError("sets an item of what is no dict; refused")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # To hash a tuple in a tuple in a tuple, and so on, would overrun C's stack.
            if not isinstance(key, str | int | float | None):
                raise InteropError(f"has a dict with a key of type {type(key).__name__}; refused")
            self._stack[-1][key] = value

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.named(f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else "?")

    def named(self, name: str) -> None:
        if name not in _STORAGES and name not in _BUILDERS:
            self.refuse(name)
        self.push(_Named(name))

    def refuse(self, name: str) -> None:
        called = shown(name.replace(" ", "."))
        raise InteropError(f"wants to call {called}, which is no tensor; refused: {SAVE_AGAIN}")

    def persistent(self) -> None:
        """("storage", class, key, device, number of elements)."""
        match self._pop():
            case ("storage", _Named(name), str(key), str(), int(numel)) if (
                name in _STORAGES and key.isascii() and key.isdigit() and _whole((numel,))
            ):
                self.push(self._open_storage(key, _STORAGES[name], numel))
            case _:
                raise InteropError("refers to something outside that is no storage; refused")

    def reduce(self) -> None:
        arguments, callee = self._pop(), self._pop()
        if not isinstance(callee, _Named) or callee.name not in _BUILDERS or type(arguments) is not tuple:
            raise InteropError("calls what is no tensor; refused")
        self.push(_BUILDERS[callee.name](*arguments))

    def build(self) -> None:
        self._pop()
        if type(self._stack[-1]) is not _OrderedDict:
            raise InteropError("sets attributes of what is no OrderedDict; refused")


def shown(text: str) -> str:
    """Text out of the file as it may stand in a message of one line."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _with_argument(names: str, act: Callable[[_Machine, Any], None]) -> dict[str, Callable]:
    return dict.fromkeys(names.split(), act)


def _alone(act: Callable[[_Machine], None]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: act(machine)


# What the pickler writes for containers, values and tensors. Not here: NEWOBJ, OBJ, EXT1 and the like, which
# make objects; DUP, POP and the text forms of protocol 0, which no pickler of protocol 2 or later writes.
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **_with_argument("PROTO FRAME STOP", lambda machine, _: None),
    **_with_argument("BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT", _Machine.push),
    **_with_argument("BINUNICODE SHORT_BINUNICODE BINUNICODE8", _Machine.push),
    **_with_argument("BINBYTES SHORT_BINBYTES BINBYTES8", _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.tuple_of(0),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    **_with_argument("BINPUT LONG_BINPUT", _Machine.put),
    **_with_argument("BINGET LONG_BINGET", _Machine.get),
    "GLOBAL": _Machine.named,
    "INST": _Machine.refuse,
    "MARK": _alone(_Machine.mark),
    "MEMOIZE": _alone(_Machine.memoize),
    "TUPLE": _alone(_Machine.tuple_since_mark),
    "APPEND": _alone(_Machine.append),
    "APPENDS": _alone(_Machine.appends),
    "SETITEM": _alone(_Machine.set_item),
    "SETITEMS": _alone(_Machine.set_items),
    "STACK_GLOBAL": _alone(_Machine.stack_global),
    "BINPERSID": _alone(_Machine.persistent),
    "REDUCE": _alone(_Machine.reduce),
    "BUILD": _alone(_Machine.build),
}
