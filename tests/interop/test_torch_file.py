import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_files
from torch_files import DTYPES, Storage, View

from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.torch_file import read_torch_file


def refusal(path) -> str:
    """The message, of one line, with which a file is refused."""
    with pytest.raises(InteropError) as error:
        read_torch_file(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_comes_back_as_it_was(protocol, tmp_path):
    wanted = {kind: np.arange(-6, 6).reshape(3, 4).astype(dtype) for dtype, kind in DTYPES.items()}
    found = read_torch_file(torch_files.save(tmp_path / "ckpt.pt", wanted, protocol))
    assert found.keys() == wanted.keys()
    for kind, array in wanted.items():
        assert found[kind].dtype == array.dtype
        np.testing.assert_array_equal(found[kind], array)
        assert not found[kind].flags.writeable
    assert found["BFloat16Storage"].dtype == ml_dtypes.bfloat16


def test_views_of_one_storage_come_back(tmp_path):
    numbers = np.arange(48, dtype=np.float32)
    storage = Storage(numbers)
    found = read_torch_file(
        torch_files.save(
            tmp_path / "ckpt.pt",
            {
                "all": View(storage, 0, (48,), (1,)),
                "transposed": View(storage, 12, (4, 6), (1, 4)),
                "every second": View(storage, 1, (3, 4), (16, 2)),
                "broadcast": View(storage, 5, (2, 3), (0, 1)),
                "number": View(storage, 47, (), ()),
                "none": View(storage, 0, (0, 3), (3, 1)),
            },
        )
    )
    np.testing.assert_array_equal(found["all"], numbers)
    np.testing.assert_array_equal(found["transposed"], numbers[12:36].reshape(6, 4).T)
    np.testing.assert_array_equal(found["every second"], numbers.reshape(3, 16)[:, 1:9:2])
    np.testing.assert_array_equal(found["broadcast"], np.tile(numbers[5:8], (2, 1)))
    assert found["number"].shape == ()
    assert found["number"] == 47
    assert found["none"].shape == (0, 3)
    assert np.shares_memory(found["all"], found["transposed"])


def test_everything_else_in_a_checkpoint_comes_back(tmp_path):
    moments = {"step": np.float32([3]), "exp_avg": np.ones((2, 2), np.float32)}
    content = {
        "net": {"state_dict": torch_files.state_dict({"w": np.ones(3, np.float32)})},
        "optim": {"state": {0: moments}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.95), "params": [0]}]},
        "numbers": [0, 1, 255, 256, -1, 70_000, 2**40, -(2**200), 1.5, True, False, None],
        "text": ("", "läßt", "x" * 300),
        "parameter": torch_files.view(np.float32([1, 2]), parameter=True),
    }
    found = read_torch_file(torch_files.save(tmp_path / "ckpt.pt", content))
    assert found["numbers"] == content["numbers"]
    assert [type(n) for n in found["numbers"]] == [type(n) for n in content["numbers"]]
    assert found["text"] == content["text"]
    assert found["optim"]["param_groups"] == content["optim"]["param_groups"]
    np.testing.assert_array_equal(found["optim"]["state"][0]["exp_avg"], np.ones((2, 2)))
    np.testing.assert_array_equal(found["parameter"], [1, 2])
    assert list(found["net"]["state_dict"]) == ["w"]


def test_a_container_that_holds_itself_is_read(tmp_path):
    content = {"w": np.ones(2, np.float32)}
    content["me"] = content
    found = read_torch_file(torch_files.save(tmp_path / "ckpt.pt", content))
    assert found["me"]["me"] is found


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a bare pickle, the format of PyTorch before 1.6"),
        (b"", "is not a file of torch.save"),
        (b"PK", "is damaged"),
        (b"PK\x03\x04 and no more of it", "is damaged"),
        (json.dumps({"weights": 1}).encode(), "is not a file of torch.save"),
    ],
)
def test_other_formats_are_refused(start, said, tmp_path):
    (tmp_path / "ckpt.pt").write_bytes(start)
    assert said in refusal(tmp_path / "ckpt.pt")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere.pt"):
        read_torch_file(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"constants.pkl": b""}, "is TorchScript, a program; save only the weights"),
        ({"byteorder": b"big"}, "was not written on a little-endian machine"),
        ({"more/data.pkl": b""}, "has 2 entries named data.pkl"),
        ({"data/0": b"1234567"}, "storage 0 should be 2 numbers of float32, but has 7 bytes"),
    ],
)
def test_a_zip_that_torch_save_does_not_write_is_refused(entries, said, tmp_path):
    path = torch_files.save(tmp_path / "ckpt.pt", np.ones(2, np.float32), **entries)
    assert said in refusal(path)


def edited(path, edit) -> str:
    """The refusal of a file whose zip directory `edit(archive)` has changed."""
    data, storages = torch_files.pickled({"w": np.ones(1000, np.float32)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ckpt/data.pkl", data)
        archive.writestr("ckpt/data/0", storages[0].numbers.tobytes())
        edit(archive)
    return refusal(path)


def test_a_zip_bomb_is_refused(tmp_path):
    def compressed(archive):
        archive.writestr("ckpt/data/1", b"0" * 10_000_000, zipfile.ZIP_DEFLATED)

    def larger_than_the_file(archive):
        archive.filelist[-1].file_size = archive.filelist[-1].compress_size = 2**33

    def overlapping(archive):
        for i in range(1, 9):
            copy = zipfile.ZipInfo(f"ckpt/data/{i}")
            first = archive.filelist[1]
            copy.header_offset, copy.CRC, copy.create_version = first.header_offset, first.CRC, 20
            copy.extract_version, copy.file_size, copy.compress_size = 20, 4000, 4000
            archive.filelist.append(copy)

    assert "is compressed or encrypted" in edited(tmp_path / "a.pt", compressed)
    assert "declares more data than it contains" in edited(tmp_path / "b.pt", larger_than_the_file)
    assert "declares more data than it contains" in edited(tmp_path / "c.pt", overlapping)


def test_two_entries_of_one_name_and_encryption_are_refused(tmp_path):
    def twice(archive):
        archive.filelist.append(archive.filelist[-1])

    def encrypted(archive):
        archive.filelist[-1].flag_bits |= 1

    assert "two entries of the same name" in edited(tmp_path / "a.pt", twice)
    assert "is compressed or encrypted" in edited(tmp_path / "b.pt", encrypted)


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    path = torch_files.save(tmp_path / "ckpt.pt", {"w": np.full(100, 1.25, np.float32)})
    data = bytearray(path.read_bytes())
    data[data.index(np.float32([1.25]).tobytes()) + 40] ^= 4
    path.write_bytes(data)
    assert "is damaged" in refusal(path)


def test_any_damage_is_one_line_or_does_no_harm(tmp_path):
    """Cuts and changed bytes anywhere in the file, or in the pickle inside a sound zip."""
    content = {"net": torch_files.state_dict({"w": np.ones((2, 3), np.float32)}), "n": [1, (2.5, "x")]}
    data, storages = torch_files.pickled(content)
    whole = torch_files.save(tmp_path / "whole.pt", content).read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "ckpt.pt"
    lines = []
    for trial in range(300):
        changed = bytearray(whole if trial % 2 else data)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        changed = changed[: rng.integers(len(changed))] if trial % 5 == 0 else changed
        if trial % 2:
            path.write_bytes(changed)
        else:
            torch_files.write_zip(path, bytes(changed), storages)
        try:
            read_torch_file(path)
        except InteropError as error:
            lines.append(str(error))
    assert len(lines) > 150
    assert all(line.isprintable() for line in lines)
