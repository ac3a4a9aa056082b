"""Bombs: files of a few megabytes that would inflate to 3 GB are refused at once, in one line."""

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from prepared import arrays, one_line

from diffusion_jax.data.sources import IDX, NPZ, DataError
from diffusion_jax.data.sources.inflate import check_zip

SIDE, COUNT = 1000, 3000
SIZE = COUNT * SIDE * SIDE


def deflated_zeros(head: bytes) -> bytes:
    """A raw deflate stream of `head` and 3 GB of zeros. One block is compressed and repeated, which takes no time."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = stream.compress(head) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(10 * SIDE * SIDE)) + stream.flush(zlib.Z_FULL_FLUSH)
    return start + block * (COUNT // 10) + stream.flush()


def write_npz_bomb(path, claimed, method=zipfile.ZIP_DEFLATED):
    """An .npz of one array of 3 GB, whose directory claims `claimed` bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (COUNT, SIDE, SIDE, 1)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", deflated_zeros(header.getvalue()))
        archive.filelist[-1].compress_type = method
        archive.filelist[-1].file_size = len(header.getvalue()) + SIZE if claimed is None else claimed
    assert path.stat().st_size < 4_000_000


def write_gz_bomb(directory, images):
    """The training pair of MNIST, whose images are declared as `images` and take 3 GB."""
    head = struct.pack(">4B3I", 0, 0, 8, 3, images, SIDE, SIDE)
    gz = b"\x1f\x8b\x08" + bytes(7) + deflated_zeros(head) + bytes(8)
    (directory / "train-images-idx3-ubyte.gz").write_bytes(gz)
    labels = struct.pack(">4BI", 0, 0, 8, 1, images) + bytes(images)
    (directory / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def refusal(dataset) -> str:
    """The error's one line; the memory that it took to find out is bounded."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as error:
            dataset.open()
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    return one_line(error)


def test_an_npz_bomb_is_refused_before_it_is_inflated(tmp_path):
    path = tmp_path / "x.npz"
    write_npz_bomb(path, None)
    assert refusal(NPZ(str(path))).startswith(
        f"{path}: inflates to 3000000128 bytes, and at most 2147483648 are read; "
    )


def test_an_npz_bomb_that_claims_to_be_small_is_cut_off_there(tmp_path):
    write_npz_bomb(tmp_path / "x.npz", claimed=1000)
    assert "cannot be read as .npz" in refusal(NPZ(str(tmp_path / "x.npz")))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_compressed_in_another_way_is_refused(tmp_path, method):
    """A decoder of LZMA takes as much memory as the file asks for."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive, archive.open("image.npy", "w") as member:
        np.save(member, arrays()[0])
    assert "'image.npy' is compressed in a way that np.savez never uses" in refusal(NPZ(str(tmp_path / "x.npz")))


def test_a_gz_bomb_is_refused_before_it_is_inflated(tmp_path):
    write_gz_bomb(tmp_path, COUNT)
    line = refusal(IDX(str(tmp_path)))
    assert "train-images-idx3-ubyte.gz: inflates to 3000000000 bytes, and at most 2147483648 are read; " in line
    assert line.endswith("decompress it with gunzip")


def test_a_gz_bomb_behind_a_small_header_is_not_inflated_further(tmp_path):
    write_gz_bomb(tmp_path, 20)
    assert "must have 20000000 bytes for (20, 1000, 1000), got 20000001" in refusal(IDX(str(tmp_path)))


def test_a_zip_file_as_large_as_its_content_passes(tmp_path):
    """3 GB that are not compressed; the file is sparse, so they take no room on the disk."""
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        file.truncate(SIZE)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("image.npy", b"")
        archive.filelist[-1].file_size = SIZE
    check_zip(path)
