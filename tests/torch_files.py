"""Writes files of torch.save without PyTorch, with the tensors of the two projects filled by a rule."""

import contextlib
import io
import itertools
import math
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

KINDS = {
    "f8": "Double",
    "f4": "Float",
    "f2": "Half",
    "bfloat16": "BFloat16",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
    "?": "Bool",
}
DTYPES = {np.dtype(ml_dtypes.bfloat16 if k == "bfloat16" else k): f"{v}Storage" for k, v in KINDS.items()}


class Storage:
    """The numbers that tensors view; the pickle refers to them by a key."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = np.ascontiguousarray(numbers).ravel()


@dataclass
class View:
    """A tensor over a storage; offset and strides count numbers, as in PyTorch."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    parameter: bool = False


def view(array: np.ndarray, parameter: bool = False) -> View:
    """An array as a tensor with a storage of its own."""
    stride = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    return View(Storage(array), 0, array.shape, tuple(stride), parameter)


@contextlib.contextmanager
def torch_names() -> Iterator[types.SimpleNamespace]:
    """Stand-ins for the classes and functions that a checkpoint refers to, because pickle looks them up."""
    names = {"_rebuild_tensor_v2": "torch._utils", "_rebuild_parameter": "torch._utils"}
    names |= dict.fromkeys(DTYPES.values(), "torch")
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    before = {name: sys.modules.get(name) for name in modules}
    made = {name: type(name, (), {"__module__": module}) for name, module in names.items()}
    for name, module in names.items():
        setattr(modules[module], name, made[name])
    sys.modules.update(modules)
    try:
        yield types.SimpleNamespace(**made)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def pickled(content: Any, protocol: int = 2) -> tuple[bytes, list[Storage]]:
    """The pickle of torch.save and the storages that it refers to, by number."""
    storages: list[Storage] = []
    with torch_names() as torch:

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if not isinstance(obj, Storage):
                    return None
                if obj not in storages:
                    storages.append(obj)
                kind = getattr(torch, DTYPES[obj.numbers.dtype])
                return ("storage", kind, str(storages.index(obj)), "cpu", obj.numbers.size)

            def reducer_override(self, obj: Any) -> Any:
                obj = view(obj) if isinstance(obj, np.ndarray) else obj
                if not isinstance(obj, View):
                    return NotImplemented
                arguments = (obj.storage, obj.offset, obj.shape, obj.stride, False, OrderedDict())
                if obj.parameter:
                    plain = View(obj.storage, obj.offset, obj.shape, obj.stride)
                    return torch._rebuild_parameter, (plain, True, OrderedDict())
                return torch._rebuild_tensor_v2, arguments

        buffer = io.BytesIO()
        Pickler(buffer, protocol).dump(content)
    return buffer.getvalue(), storages


def write_zip(path: Path, pickle_bytes: bytes, storages: list[Storage] = (), **entries: bytes) -> Path:
    """The zip of torch.save around any pickle; `entries` are added or replace others."""
    inside = {"data.pkl": pickle_bytes, "byteorder": b"little", "version": b"3\n"}
    inside |= {f"data/{i}": storage.numbers.tobytes() for i, storage in enumerate(storages)} | entries
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in inside.items():
            archive.writestr(f"{path.stem}/{name}", data)
    return path


def save(path: Path, content: Any, protocol: int = 2, **entries: bytes) -> Path:
    """Writes `content` as torch.save does; arrays and `View`s become tensors."""
    return write_zip(path, *pickled(content, protocol), **entries)


def state_dict(tensors: dict[str, np.ndarray]) -> OrderedDict:
    """A module's state dict: an OrderedDict with an attribute."""
    made = OrderedDict(tensors)
    made._metadata = OrderedDict({"": {"version": 1}})
    return made


Shapes = dict[str, tuple[int, ...]]


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def film_shapes(
    width: int = 8,
    multipliers: tuple[int, ...] = (1, 2),
    attends: tuple[bool, ...] = (False, True),
    channels: int = 3,
    inner: int = 8,
) -> Shapes:
    """Names and shapes of the FiLM U-Net's tensors, in the order of named_parameters(); by default a narrow one."""

    def block(name: str, before: int, after: int) -> Shapes:
        return {
            **_layer(f"{name}.conv1", after, before, 3, 3),
            **_layer(f"{name}.norm1", after),
            **_layer(f"{name}.conv2.0", after, after, 3, 3),
            **_layer(f"{name}.conv2.1", after),
            **(_layer(f"{name}.shortcut", after, before, 1, 1) if before != after else {}),
            **_layer(f"{name}.time_emb.1", 2 * after, 4 * width),
        }

    def attention(name: str, c: int) -> Shapes:
        qkv = _layer(f"{name}.fn.to_qkv", 3 * inner, c, bias=False)
        return qkv | _layer(f"{name}.fn.proj", c, inner) | _layer(f"{name}.norm", c)

    widths = [width * m for m in multipliers]
    last = len(widths) - 1
    shapes = {
        **_layer("time_emb.1", 4 * width, width),
        **_layer("time_emb.3", 4 * width, 4 * width),
        **_layer("init_conv", width, channels, 1, 1),
        **block("final_res", 2 * width, width),
        **_layer("final_conv", channels, width, 1, 1),
    }
    for i, (before, after) in enumerate(itertools.pairwise([width, *widths])):
        shapes |= block(f"downs.{i}.conv", before, after)
        shapes |= attention(f"downs.{i}.attn", after) if attends[i] else {}
        shapes |= _layer(f"downs.{i}.ds.1", after, 4 * after, 1, 1) if i < last else {}
    for k, level in enumerate(range(last, -1, -1)):
        after = widths[level - 1] if level else width
        shapes |= block(f"ups.{k}.conv", 2 * widths[level], after)
        shapes |= attention(f"ups.{k}.attn", after) if attends[level] else {}
        shapes |= _layer(f"ups.{k}.us.1", after, after, 3, 3) if level else {}
    middle = widths[-1]
    shapes |= block("mid.pre_conv", middle, middle) | attention("mid.attn", middle)
    return shapes | block("mid.post_conv", middle, middle)


def convnext_shapes(
    channels: tuple[int, ...] = (4, 6, 8, 10),
    last_width: int = 2,
    expansion: int = 2,
    classes: int = 3,
    embedding: int = 6,
    steps: int = 20,
    in_channels: int = 1,
) -> Shapes:
    """Names and shapes of the ConvNeXt U-Net's tensors: the table, then named_parameters(); by default narrow."""

    def block(name: str, before: int, after: int) -> Shapes:
        wide = after * expansion
        return {
            **_layer(f"{name}.t_fc", before, embedding),
            **_layer(f"{name}.c_fc", before, embedding),
            **_layer(f"{name}.ds_conv", before, 1, 7, 7),
            **_layer(f"{name}.sequential.0", before),
            **_layer(f"{name}.sequential.1", wide, before, 3, 3),
            **_layer(f"{name}.sequential.3", wide),
            **_layer(f"{name}.sequential.4", after, wide, 3, 3),
            **(_layer(f"{name}.shortcut", after, before, 1, 1) if before != after else {}),
        }

    def attention(name: str, c: int) -> Shapes:
        return _layer(f"{name}.wx", 3 * c, c) | _layer(f"{name}.wo", c, c) | _layer(f"{name}.gn", c)

    shapes = {"t_emb": (steps + 1, embedding), "class_emb.weight": (classes, embedding)}
    for i, (fine, coarse) in enumerate(itertools.pairwise(channels)):
        shapes |= _layer(f"downscales.{i}", coarse, fine, 3, 3)
    for k, (coarse, fine) in enumerate(zip(channels[:0:-1], channels[-2::-1], strict=True)):
        shapes |= {f"upscales.{k}.weight": (coarse, fine, 3, 3), f"upscales.{k}.bias": (fine,)}
    for i, after in enumerate(channels):
        before = in_channels if i == 0 else channels[i]
        shapes |= block(f"downblocks.{i}.0", before, after) | attention(f"downblocks.{i}.1", after)
    for k, fine in enumerate(channels[-2::-1]):
        after = last_width if k == len(channels) - 2 else fine
        shapes |= block(f"upblocks.{k}.0", 2 * fine, after) | attention(f"upblocks.{k}.1", after)
    return shapes | block("final_conv", last_width, in_channels)


def filled(shapes: Shapes) -> dict[str, np.ndarray]:
    """float64 tensors of sin(0.37 i + 0.11 j), scaled roughly as in a trained network."""
    tensors, ordinal = {}, 0
    for name, shape in shapes.items():
        if name == "t_emb":
            tensors[name] = sines(*shape)
            continue
        base = np.sin(0.37 * np.arange(math.prod(shape)) + 0.11 * ordinal).reshape(shape)
        if len(shape) == 1:
            tensors[name] = 1 + 0.1 * base if name.endswith(".weight") else 0.05 * base
        else:
            tensors[name] = base * 1.7 / (1 if "class_emb" in name else math.sqrt(math.prod(shape[1:])))
        ordinal += 1
    return tensors


def sines(rows: int, width: int) -> np.ndarray:
    """sin and cos of position 1 .. rows, side by side, at the frequencies 1e-4^(2k/width)."""
    table = np.empty((rows, width))
    for k in range(1, width // 2 + 1):
        angle = np.arange(1, rows + 1) * 1e-4 ** (2 * k / width)
        table[:, 2 * k - 2], table[:, 2 * k - 1] = np.sin(angle), np.cos(angle)
    return table


def float32(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
