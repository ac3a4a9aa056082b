"""One file of parameters."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion_jax.runtime import weights
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.runtime.weights import name_params, nest_params, read_weights, write_weights

PARAMS = {"params": {"Dense_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "scale": np.float32(2.0)}}


@pytest.fixture
def path(tmp_path):
    write_weights(tmp_path / "deep" / "x.safetensors", name_params(PARAMS), {"step": 3, "name": "é"})
    return tmp_path / "deep" / "x.safetensors"


def test_what_is_written_is_read(path):
    found, description = read_weights(path)
    assert description == {"step": 3, "name": "é"}
    found = nest_params(found)
    np.testing.assert_array_equal(found["params"]["Dense_0"]["kernel"], PARAMS["params"]["Dense_0"]["kernel"])
    assert found["params"]["scale"] == 2.0


def test_other_libraries_read_the_arrays_by_name(path):
    assert set(load_file(path)) == {"params/Dense_0/kernel", "params/scale"}


def test_every_flipped_bit_is_noticed(path):
    sound = path.read_bytes()
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as error:
            read_weights(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_cut_file_is_refused(length, path):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="cannot be read as .safetensors"):
        read_weights(path)


def test_a_file_of_others_is_refused(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is not of this library"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("array", [np.zeros(2, np.int8), np.array([1.0, np.nan], np.float32)])
def test_weights_that_are_not_finite_floats_are_refused(array, tmp_path):
    write_weights(tmp_path / "x.safetensors", {"a": array}, {})
    with pytest.raises(CheckpointError, match="a is .*: must be finite floats"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["null", "[]", "3", "{", "[" * 100_000])
def test_a_description_that_is_no_dict_is_refused_in_one_line(text, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.json, "dumps", lambda *args, **kwargs: text)
    write_weights(tmp_path / "x.safetensors", {"a": np.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="has a description") as error:
        read_weights(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="x.safetensors"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("params", [[np.zeros(3)], {"a/b": np.zeros(3)}, {"a": (np.zeros(3),)}, {3: np.zeros(1)}])
def test_parameters_without_names_are_refused(params):
    with pytest.raises(CheckpointError, match="parameters must be nested dicts"):
        name_params(params)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be .safetensors"):
        write_weights(tmp_path / "x.npz", {}, {})


@pytest.mark.parametrize("lay", [np.asfortranarray, lambda x: np.concatenate([x, x], axis=1)[:, ::2], np.transpose])
def test_arrays_in_another_order_in_memory_are_written_as_they_are(lay, tmp_path):
    """The library that writes them takes their memory as it is."""
    array = lay(np.arange(12, dtype=np.float32).reshape(3, 4))
    assert not array.flags.c_contiguous
    write_weights(tmp_path / "w.safetensors", {"a": array}, {})
    found, _ = read_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found["a"], array)
