import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoints import large, placed

from diffusion_jax.runtime.errors import DamageError
from diffusion_jax.runtime.fingerprint import _fingerprint, check_equal, fingerprint_leaves


def fingerprint(x):
    return int(_fingerprint(x))


FLIPPED = {
    "float32": np.array([[1.5, -2.0, 0.0], [np.nan, 1e-40, 3.0]], np.float32),
    "int32": np.arange(6, dtype=np.int32),
    "uint8": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
    "bfloat16": np.arange(6).astype(ml_dtypes.bfloat16),
    "scalar": np.array(0.1, np.float32),
    "zeros": np.zeros((2, 3), np.float32),
}


@pytest.mark.parametrize("name", FLIPPED)
def test_any_flipped_bit_changes_the_fingerprint(name):
    x = FLIPPED[name]
    seen = {fingerprint(jnp.asarray(x))}
    for bit in range(x.nbytes * 8):
        data = bytearray(x.tobytes())
        data[bit // 8] ^= 1 << bit % 8
        seen.add(fingerprint(jnp.asarray(np.frombuffer(data, x.dtype).reshape(x.shape))))
    assert len(seen) == 1 + x.nbytes * 8


def test_any_flipped_bool_changes_the_fingerprint():
    x = np.array([True, False, False, True])
    flipped = [np.where(np.arange(4) == i, ~x, x) for i in range(4)]
    assert len({fingerprint(jnp.asarray(y)) for y in [x, *flipped]}) == 5


def test_swapping_any_two_elements_changes_the_fingerprint():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    seen = {fingerprint(jnp.asarray(x))}
    for i in range(24):
        for j in range(i):
            y = x.flatten()
            y[[i, j]] = y[[j, i]]
            seen.add(fingerprint(jnp.asarray(y.reshape(x.shape))))
    assert len(seen) == 1 + 24 * 23 // 2


def test_the_position_of_a_value_among_zeros_changes_the_fingerprint():
    """A sum of the bits alone would not depend on the position."""
    rows = [jnp.zeros(50).at[i].set(1.0) for i in range(50)]
    assert len({fingerprint(row) for row in rows}) == 50


def test_swapping_leaves_swaps_the_fingerprints():
    a, b = jnp.arange(6.0), jnp.arange(6.0) + 1
    there, back = (
        fingerprint_leaves({"a": a, "b": b}),
        fingerprint_leaves({"a": b, "b": a}),
    )
    assert there.keys() == back.keys()
    assert there != back
    assert sorted(there.values()) == sorted(back.values())


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (1, 8), (2, 4)])
def test_the_fingerprint_does_not_depend_on_the_sharding(data, fsdp, devices):
    spread = placed(large(), data, fsdp, devices)
    if fsdp > 1:
        assert len({str(s.index) for s in spread["last"].addressable_shards}) == fsdp
    assert fingerprint_leaves(spread) == fingerprint_leaves(large())


PINNED = {
    "float32": (np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4), 2382609320),
    "int32": (np.arange(-5, 5, dtype=np.int32), 4158623577),
    "uint8": (np.arange(12, dtype=np.uint8).reshape(3, 4), 1248913921),
    "bool": (np.array([True, False, True]), 4141144917),
    "bfloat16": (np.arange(6).astype(ml_dtypes.bfloat16), 2209940965),
    "scalar": (np.float32(0.1), 635621129),
}


@pytest.mark.parametrize("name", PINNED)
def test_fingerprints_do_not_change_between_versions(name):
    """Otherwise older checkpoints would look damaged."""
    x, expected = PINNED[name]
    assert fingerprint(jnp.asarray(x)) == expected


@pytest.mark.parametrize(
    ("saved", "found"), [({"w": 1, "u": 2}, {"w": 1}), ({"w": 1}, {"w": 1, "u": 2}), ({"w": 1}, {"w": 2})]
)
def test_a_leaf_that_differs_or_is_on_one_side_only_is_damage(saved, found):
    with pytest.raises(DamageError, match=r"^the sum of params/[wu] is (None|2), was saved as (None|1|2)$"):
        check_equal("the sum", "params/", saved, found)
    check_equal("the sum", "params/", saved, saved)
