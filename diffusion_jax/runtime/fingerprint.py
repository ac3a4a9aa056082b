"""What tells a sound checkpoint from a damaged one: shapes and hashes of its arrays, whatever their sharding."""

import hashlib
import json
import re
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.runtime.errors import DamageError


def describe_leaves(tree: Any) -> dict[str, str]:
    """Path of each leaf -> shape and dtype, such as "(3, 3, 1, 32) float32"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{tuple(x.shape)} {x.dtype}" for path, x in leaves}


def read_leaf(text: str, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """The leaf that `describe_leaves` describes. Raises DamageError for other text."""
    match = re.fullmatch(r"\(([\d, ]*)\) (\w+)", text)
    if match is None:
        raise DamageError(f"its description has a leaf {text[:80]!r}")
    shape = tuple(int(size) for size in match[1].split(",") if size.strip())
    return jax.ShapeDtypeStruct(shape, jnp.dtype(match[2]), sharding=sharding)


def fingerprint_leaves(tree: Any) -> dict[str, int]:
    """Path of each leaf -> hash of its bits, independent of its sharding."""
    # In groups, because XLA's emulated devices block each other at 32 programs in flight.
    leaves, hashes = jax.tree.leaves(tree), []
    for first in range(0, len(leaves), 16):
        hashes += jax.device_get([_fingerprint(leaf) for leaf in leaves[first : first + 16]])
    return {path: int(value) for path, value in zip(describe_leaves(tree), hashes, strict=True)}


@jax.jit
def _fingerprint(x: jax.Array) -> jax.Array:
    """The uint32 sum of a hash of (position, bits) per element; a sum does not depend on order or sharding."""
    words = _as_words(x)
    position, stride = jnp.uint32(0), 1
    for axis in reversed(range(words.ndim)):  # flattening instead would gather the shards
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
        stride = stride * words.shape[axis] % 2**32
    # Xor with a multiple of the golden ratio, then MurmurHash3's finalizer (Appleby, public domain).
    h = words ^ (position * jnp.uint32(0x9E3779B9))
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def _as_words(x: jax.Array) -> jax.Array:
    """The bits of x as uint32."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jnp.dtype(x.dtype).itemsize * 8
    unsigned = jnp.dtype(f"uint{min(bits, 32)}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def add_hash(content: dict[str, Any]) -> dict[str, Any]:
    """The content as JSON and its hash, because JSON with a flipped bit often still parses."""
    text = json.dumps(content, sort_keys=True)
    return {"content": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def verify_hash(meta: dict[str, Any]) -> dict[str, Any]:
    if hashlib.sha256(meta["content"].encode()).hexdigest() != meta["sha256"]:
        raise DamageError("its description does not match its hash")
    content = json.loads(meta["content"])
    if not (isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("description", "leaves"))):
        raise DamageError("its description is not that of a run")
    return content


def check_equal(what: str, name: str, saved: dict[str, Any], found: dict[str, Any]) -> None:
    for path in sorted(saved.keys() | found.keys()):
        if saved.get(path) != found.get(path):
            raise DamageError(f"{what} of {name}{path} is {found.get(path)}, was saved as {saved.get(path)}")
