"""Hostile pickles: each ends in an error of one line, and none of their code runs."""

import copyreg
import functools
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch_files
from torch_files import Storage, View

from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.torch_file import read_torch_file


def refusal(path) -> str:
    with pytest.raises(InteropError) as error:
        read_torch_file(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    return line.removeprefix(f"{path}: ")


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(mark: str) -> dict:
    """The name that must be refused -> a pickle that would create the file `mark` if it were loaded."""
    code = f"open({mark!r}, 'w').close()"
    return {
        f"{os.system.__module__}.system": Calls(os.system, f"touch {mark}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "Popen": Calls(subprocess.Popen, ["touch", mark]),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "functools.partial": functools.partial(exec, code),
        "_reconstruct": np.array([Calls(open, mark, "w")], object).__reduce__()[0],
        "open": {"net": {"state_dict": {"w": np.ones(2, np.float32), "x": Calls(open, mark, "w")}}},
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", attacks(""))
def test_a_call_is_refused_by_name_and_not_made(name, protocol, tmp_path):
    mark = tmp_path / "mark"
    hostile, storages = torch_files.pickled(attacks(str(mark))[name], protocol)
    line = refusal(torch_files.write_zip(tmp_path / "ckpt.pt", hostile, storages))
    assert line.startswith("wants to call ")
    assert name in line
    assert "which tensors do not need; refused" in line
    assert not mark.exists()


@pytest.mark.parametrize("name", ["eval", "exec"])
def test_the_attacks_are_real(name, tmp_path):
    pickle.loads(pickle.dumps(attacks(str(tmp_path / "mark"))[name]))
    assert (tmp_path / "mark").exists()


def test_nothing_is_imported(tmp_path):
    (tmp_path / "evil_module_of_the_file.py").write_text("raise SystemExit")
    sys.path.insert(0, str(tmp_path))
    try:
        hostile = b"\x80\x02cevil_module_of_the_file\nrun\n)R."
        line = refusal(torch_files.write_zip(tmp_path / "ckpt.pt", hostile))
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module_of_the_file.run" in line
    assert "evil_module_of_the_file" not in sys.modules


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


DICT = b"ccollections\nOrderedDict\n"
DEEP = b")" + b"\x85" * 100_000  # ((((...))))
RAW = {
    "a dotted name": (text("torch") + text("_utils.os.system") + b"\x93)R.", "torch._utils.os.system"),
    "a dotted name of ours": (text("collections") + text("OrderedDict.fromkeys") + b"\x93.", "fromkeys"),
    "split in another place": (
        text("torch._utils _rebuild_tensor_v2") + text("") + b"\x93.",
        "wants to call",
    ),
    "a name that is no text": (b"K\x01K\x02\x93.", "wants to call ?"),
    "a module and a name that is no text": (text("os") + b"K\x02\x93.", "wants to call ?"),
    "a name in a module that is no text": (b"K\x01" + text("system") + b"\x93.", "wants to call ?"),
    "a name with a line in it": (text("os\nerror: fine") + text("system") + b"\x93.", "wants to call 'os\\n"),
    "INST": (b"(ios\nsystem\n.", "wants to call os.system"),
    "OBJ": (b"(" + DICT + b"o.", "instruction OBJ"),
    "NEWOBJ": (DICT + b")\x81.", "instruction NEWOBJ"),
    "NEWOBJ_EX": (DICT + b")}\x92.", "instruction NEWOBJ_EX"),
    "EXT1": (b"\x82\xf0)R.", "instruction EXT1"),
    "PERSID": (b"P../../etc/passwd\n.", "instruction PERSID"),
    "a buffer": (b"\x97.", "instruction NEXT_BUFFER"),
    "STRING": (b"S'touch'\n.", "instruction STRING"),
    "an OrderedDict of a list": (DICT + b"](K\x01K\x02e\x85R.", "calls OrderedDict with arguments"),
    # Hashing a tuple this deep would overflow the stack of the interpreter.
    "an OrderedDict of a deep tuple": (
        DICT + b"](" + DEEP + b"K\x01\x86e\x85R.",
        "calls OrderedDict with arguments",
    ),
    "a call of a value": (b"K\x01)R.", "makes a call that does not build a tensor"),
    "a call of a storage": (b"ctorch\nFloatStorage\n)R.", "makes a call that does not build a tensor"),
    "a call without a tuple": (DICT + b"]R.", "makes a call that does not build a tensor"),
    "a tensor of nothing": (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "is damaged"),
    "a tensor of text": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + text("x") + b"K\x00))tR.",
        "a tensor without a storage",
    ),
    "state for a list": (b"]}b.", "sets attributes of an object that is not an OrderedDict"),
    "state for a dict": (b"}}b.", "sets attributes of an object that is not an OrderedDict"),
    "state for a function": (
        b"ctorch._utils\n_rebuild_tensor_v2\n}b.",
        "sets attributes of an object that is not an OrderedDict",
    ),
    "state for a class": (DICT + b"}b.", "sets attributes of an object that is not an OrderedDict"),
    "items for a list": (b"]K\x01K\x02s.", "sets an item of an object that is not a dict"),
    "appending to a dict": (b"}K\x01a.", "appends to an object that is not a list"),
    "an odd number of items": (b"}(K\x01u.", "is damaged"),
    "a deep key": (b"}" + DEEP + b"K\x01s.", "a key of type tuple"),
    "a list as a key": (b"}]K\x01s.", "a key of type list"),
    "no stack": (b"a.", "is damaged"),
    "no mark": (b"t.", "is damaged"),
    "no memo": (b"h\x07.", "is damaged"),
    "no end": (b"K\x01", "is damaged"),
    "nothing": (b"", "is damaged"),
    "no such instruction": (b"\xff.", "is damaged"),
    "text that is cut": (b"X\xff\xff\xff\x7fabc.", "is damaged"),
}


@pytest.mark.parametrize("case", RAW)
def test_other_instructions_and_uses_are_refused(case, tmp_path):
    instructions, said = RAW[case]
    path = torch_files.write_zip(tmp_path / "ckpt.pt", b"\x80\x04" + instructions)
    copyreg.add_extension("os", "system", 0xF0)
    try:
        assert said in refusal(path)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.parametrize(
    "key",
    ["../data.pkl", "0/../0", "/etc/passwd", "", "-1", "0 ", "\u0661", "x", "0\x00"],
)
def test_a_storage_outside_of_the_zip_is_refused(key, tmp_path):
    assert "refers to something outside" in refusal(storage_of(tmp_path, "storage", "FloatStorage", key, 2))


def storage_of(tmp_path, tag, kind, key, numel):
    """A file whose pickle is one persistent id."""
    with torch_files.torch_names() as torch:

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                kind_ = getattr(torch, kind) if isinstance(kind, str) and hasattr(torch, kind) else kind
                return (tag, kind_, key, "cpu", numel) if obj == "here" else None

        buffer = io.BytesIO()
        Pickler(buffer, 2).dump("here")
    return torch_files.write_zip(tmp_path / "ckpt.pt", buffer.getvalue(), [Storage(np.ones(2, np.float32))])


@pytest.mark.parametrize(
    ("tag", "kind", "numel", "said"),
    [
        ("module", "FloatStorage", 2, "refers to something outside"),
        ("storage", "torch.FloatStorage", 2, "refers to something outside"),
        ("storage", "_rebuild_tensor_v2", 2, "refers to something outside"),
        ("storage", "FloatStorage", -2, "refers to something outside"),
        ("storage", "FloatStorage", True, "refers to something outside"),
        ("storage", "FloatStorage", 2.0, "refers to something outside"),
        ("storage", "FloatStorage", 3, "should be 3 numbers of float32, but has 8 bytes"),
        ("storage", "FloatStorage", 2**70, "but has 8 bytes"),
        ("storage", "DoubleStorage", 2, "should be 2 numbers of float64, but has 8 bytes"),
    ],
)
def test_a_storage_that_differs_from_its_description_is_refused(tag, kind, numel, said, tmp_path):
    assert said in refusal(storage_of(tmp_path, tag, kind, "0", numel))


def test_a_storage_that_is_missing_is_refused(tmp_path):
    assert "storage 7 should be 2 numbers" in refusal(storage_of(tmp_path, "storage", "FloatStorage", "7", 2))


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "said"),
    [
        (0, (13,), (1,), "(13,) that reaches past its storage"),
        (1, (12,), (1,), "reaches past its storage"),
        (12, (), (), "reaches past its storage"),
        (0, (3, 4), (5, 1), "reaches past its storage"),
        (2**62, (2,), (2**62,), "reaches past its storage"),
        (0, (2**40, 2**40), (0, 0), "over only 12 numbers; save it with .contiguous()"),
        (0, (10**30,), (0,), "beyond 32 dimensions or 2**48"),
        (11, (12,), (-1,), "not integers >= 0"),
        (-1, (2,), (1,), "not integers >= 0"),
        (0, (-2,), (1,), "not integers >= 0"),
        (0, (2.0,), (1,), "not integers >= 0"),
        (0, (True,), (1,), "not integers >= 0"),
        (0, (2, 3), (1,), "not integers >= 0"),
        (0, "ab", (1, 1), "not integers >= 0"),
        (None, (2,), (1,), "not integers >= 0"),
        (0, (1,) * 65, (1,) * 65, "beyond 32 dimensions or 2**48"),
        (0, (0, 2**70), (1, 1), "beyond 32 dimensions or 2**48"),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(offset, shape, stride, said, tmp_path):
    tensor = View(Storage(np.arange(12, dtype=np.float32)), offset, shape, stride)
    assert said in refusal(torch_files.save(tmp_path / "ckpt.pt", tensor))


def test_a_memo_index_costs_no_memory(tmp_path):
    path = torch_files.write_zip(tmp_path / "ckpt.pt", b"\x80\x02K\x05r\xfe\xff\xff\xff0."[:-2] + b".")
    assert read_torch_file(path) == 5


def test_deep_nesting_is_read(tmp_path):
    found = read_torch_file(
        torch_files.write_zip(tmp_path / "ckpt.pt", b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")
    )
    depth = 0
    while found:
        (found,), depth = found, depth + 1
    assert depth == 49_999


def test_a_shape_nested_sixty_times_is_refused_at_once(tmp_path):
    shape = [1]
    for _ in range(60):
        shape = [shape, shape]
    tensor = View(Storage(np.ones(1, np.float32)), 0, shape, shape)
    assert "not integers >= 0" in refusal(torch_files.save(tmp_path / "ckpt.pt", tensor))
