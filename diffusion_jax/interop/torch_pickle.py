"""Reads the pickle inside a file of torch.save without trusting it.

The pickle is never passed to `pickle`. A small machine executes its instructions one by one; it knows
containers, plain values and tensors, imports nothing and calls nothing that the file chooses. The worst that a
hostile file achieves is an error of one line. Most lines here are checks: they are the point of this module.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax.interop.error import SAVE_AGAIN, InteropError, quote
from diffusion_jax.interop.torch_tensor import STORAGE_DTYPES, Storage, are_sizes, rebuild_parameter, rebuild_tensor

OpenStorage = Callable[[str, np.dtype, int], Storage]


def read_pickle(pickled: bytes, open_storage: OpenStorage) -> Any:
    """Returns the pickled dicts, lists, tuples and plain values; tensors are read-only NumPy arrays.

    `open_storage(key, dtype, numel)` returns a storage; `key` consists of digits and `numel` is >= 0. Raises
    InteropError for a pickle that contains anything else, other exceptions for one that is damaged.
    """
    return _Machine(open_storage).run(pickled)


@dataclasses.dataclass(frozen=True)
class _Global:
    """A class or function that the pickle refers to. Only the name is kept; nothing is looked up."""

    name: str


class _OrderedDict(dict):
    """A pickled OrderedDict. Unlike other containers it may be given attributes, which are dropped."""


def _make_ordered_dict(*items: Any) -> _OrderedDict:
    """The call OrderedDict(); pickles set the items afterwards, one by one."""
    if items:
        raise InteropError("calls OrderedDict with arguments; refused")
    return _OrderedDict()


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _make_ordered_dict,
    "torch._utils _rebuild_tensor_v2": rebuild_tensor,
    "torch._utils _rebuild_parameter": rebuild_parameter,
}


class _Machine:
    """A stack, the stacks that MARK has set aside, and a memo. Each method executes one instruction."""

    def __init__(self, open_storage: OpenStorage):
        self._open_storage = open_storage
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in _INSTRUCTIONS:
                raise InteropError(f"has the instruction {opcode.name}, which no tensor needs; refused: {SAVE_AGAIN}")
            arguments = () if opcode.arg is None else (argument,)
            _INSTRUCTIONS[opcode.name](self, *arguments)
        return self._pop()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _top(self, kind: type, problem: str) -> Any:
        """The object on top of the stack, which stays there. Raises InteropError unless it is a `kind`."""
        if not isinstance(self._stack[-1], kind):
            raise InteropError(f"{problem}; refused")
        return self._stack[-1]

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def make_tuple(self) -> None:
        self.push(tuple(self._pop_to_mark()))

    def make_tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self) -> None:
        self._extend([self._pop()])

    def appends(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        self._top(list, "appends to an object that is not a list").extend(items)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def set_items(self) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._top(dict, "sets an item of an object that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple in a tuple in a tuple, and so on, would overflow the stack of C.
            if not isinstance(key, str | int | float | None):
                raise InteropError(f"has a dict with a key of type {type(key).__name__}; refused")
            target[key] = value

    def push_stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.push_global(f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else "?")

    def push_global(self, name: str) -> None:
        if name not in STORAGE_DTYPES and name not in _FUNCTIONS:
            self.refuse_global(name)
        self.push(_Global(name))

    def refuse_global(self, name: str) -> None:
        function = quote(name.replace(" ", "."))
        raise InteropError(f"wants to call {function}, which tensors do not need; refused: {SAVE_AGAIN}")

    def push_storage(self) -> None:
        """The persistent id of a storage: ("storage", class, key, device, number of elements)."""
        match self._pop():
            case ("storage", _Global(name), str(key), str(), int(numel)) if (
                name in STORAGE_DTYPES and key.isascii() and key.isdigit() and are_sizes((numel,))
            ):
                self.push(self._open_storage(key, STORAGE_DTYPES[name], numel))
            case _:
                raise InteropError("refers to something outside the file that is not a storage; refused")

    def call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or function.name not in _FUNCTIONS or type(arguments) is not tuple:
            raise InteropError("makes a call that does not build a tensor; refused")
        self.push(_FUNCTIONS[function.name](*arguments))

    def drop_attributes(self) -> None:
        self._pop()
        self._top(_OrderedDict, "sets attributes of an object that is not an OrderedDict")


# What a pickler of protocol 2 or later writes for containers, values and tensors. Left out on purpose: NEWOBJ,
# OBJ, EXT1 and the like, which make objects; DUP, POP and the text forms of protocol 0, which it never writes.
_INSTRUCTIONS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(["PROTO", "FRAME"], lambda machine, _: None),
    "STOP": lambda machine: None,
    **dict.fromkeys(["BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"], _Machine.push),
    **dict.fromkeys(["BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"], _Machine.push),
    **dict.fromkeys(["BINBYTES", "SHORT_BINBYTES", "BINBYTES8"], _Machine.push),
    "NONE": lambda machine: machine.push(None),
    "NEWTRUE": lambda machine: machine.push(True),
    "NEWFALSE": lambda machine: machine.push(False),
    "EMPTY_DICT": lambda machine: machine.push({}),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "EMPTY_TUPLE": lambda machine: machine.push(()),
    "TUPLE1": lambda machine: machine.make_tuple_of(1),
    "TUPLE2": lambda machine: machine.make_tuple_of(2),
    "TUPLE3": lambda machine: machine.make_tuple_of(3),
    "TUPLE": _Machine.make_tuple,
    **dict.fromkeys(["BINPUT", "LONG_BINPUT"], _Machine.put),
    **dict.fromkeys(["BINGET", "LONG_BINGET"], _Machine.get),
    "GLOBAL": _Machine.push_global,
    "INST": _Machine.refuse_global,
    "MARK": _Machine.mark,
    "MEMOIZE": _Machine.memoize,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "STACK_GLOBAL": _Machine.push_stack_global,
    "BINPERSID": _Machine.push_storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.drop_attributes,
}
