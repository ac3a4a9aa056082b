import numpy as np
import pytest

from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.weights import count_numbered, find_shape, find_tensor, transpose_kernel


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_a_finite_tensor_is_returned_as_it_is(dtype):
    tensor = np.ones(3).astype(dtype)
    assert find_tensor({"w": tensor}, "w") is tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, "tensor w is missing"),
        ([1.0], "tensor w is missing"),
        (np.ones(3, np.int32), "tensor w is int32: must be floating point"),
        (np.ones(3, bool), "tensor w is bool: must be floating point"),
        (np.ones(3, complex), "tensor w is complex128: must be floating point"),
        (np.array([1, np.nan]), "tensor w has values that are not finite in float32"),
        (np.array([1, -np.inf]), "tensor w has values that are not finite in float32"),
        (np.array([1e39]), "tensor w has values that are not finite in float32"),
    ],
)
def test_other_tensors_are_refused(tensor, message):
    with pytest.raises(InteropError, match=f"^{message}$"):
        find_tensor({} if tensor is None else {"w": tensor}, "w")


def test_a_shape_has_the_number_of_dimensions():
    assert find_shape({"w": np.ones((2, 3))}, "w", 2) == (2, 3)
    with pytest.raises(InteropError, match="^tensor w is missing: must have 2 dimensions$"):
        find_shape({"w": "text"}, "w", 2)
    for shape in [(3,), (2, 3, 4), (0, 3)]:
        with pytest.raises(InteropError, match=r"^tensor w has shape \(.*\): must have 2 dimensions, none of them 0$"):
            find_shape({"w": np.ones(shape)}, "w", 2)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ([], 0),
        (["ups.0.w", "down.0.w"], 0),
        (["downs.0.w", "downs.0.b", "downs.1.w"], 2),
        (["downs.1.w"], 0),
        (["downs.0.w", "downs.2.w"], 1),
        (["downs.0", "downs.10.w"], 1),
    ],
)
def test_numbered_names_are_counted_up_to_the_first_gap(names, count):
    assert count_numbered(dict.fromkeys(names), "downs.") == count


def test_kernels_are_transposed():
    linear, convolution = np.arange(6).reshape(2, 3), np.arange(24).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(transpose_kernel(linear, 2), linear.T)
    np.testing.assert_array_equal(transpose_kernel(linear[..., None, None], 2), linear.T)
    found = transpose_kernel(convolution, 4)
    assert found.shape == (2, 2, 3, 2)
    for o, i, h, w in np.ndindex(2, 3, 2, 2):
        assert found[h, w, i, o] == convolution[o, i, h, w]
    for weight, ndim in [(convolution, 2), (linear, 4)]:
        with pytest.raises(ValueError, match="axes|reshape"):
            transpose_kernel(weight, ndim)
