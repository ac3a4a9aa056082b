import numpy as np
import pytest

from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.torch_tensor import Storage, rebuild_parameter, rebuild_tensor


def storage(count: int) -> Storage:
    return Storage(np.arange(count, dtype="<f4").tobytes(), np.dtype("<f4"))


@pytest.mark.parametrize("shape", [(2**400_000,) * 30, (1,) * 100_000, (1,) * 33, (2**48 + 1,)])
def test_a_shape_beyond_the_limits_is_refused_at_once(shape):
    """The product of the sides could take hours."""
    with pytest.raises(InteropError, match="with a shape beyond 32 dimensions or 2\\*\\*48; refused"):
        rebuild_tensor(storage(4), 0, shape, (0,) * len(shape))


def test_a_shape_at_the_limits_is_read():
    assert rebuild_tensor(storage(1), 0, (1,) * 32, (1,) * 32).shape == (1,) * 32
    assert rebuild_tensor(storage(1), 0, (2**48, 0), (1, 1)).shape == (2**48, 0)


def test_the_last_number_of_a_storage_can_be_read_and_the_next_cannot():
    np.testing.assert_array_equal(rebuild_tensor(storage(6), 1, (5,), (1,)), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(rebuild_tensor(storage(6), 0, (2, 2), (3, 2)), [[0, 2], [3, 5]])
    for offset, shape, stride in [(2, (5,), (1,)), (0, (2, 2), (4, 2)), (6, (), ())]:
        with pytest.raises(InteropError, match="reaches past its storage"):
            rebuild_tensor(storage(6), offset, shape, stride)


def test_a_tensor_may_repeat_a_storage_only_up_to_its_size():
    """Strides of 0 would otherwise turn a small file into a large array."""
    assert rebuild_tensor(storage(6), 0, (6,), (0,)).shape == (6,)
    with pytest.raises(InteropError, match=r"shape \(7,\) over only 6 numbers; save it with .contiguous"):
        rebuild_tensor(storage(6), 0, (7,), (0,))


def test_a_parameter_is_its_tensor():
    tensor = rebuild_tensor(storage(2), 0, (2,), (1,), False, {})
    assert rebuild_parameter(tensor, True, {}) is tensor
    assert not tensor.flags.writeable
