"""Classes that jit must tell apart."""

import dataclasses
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.sampling import samplers
from diffusion_jax.sampling.editing.inpainting import Replacement
from diffusion_jax.sampling.editing.inversion import Inversion
from diffusion_jax.verify.cases import SAMPLERS

PACKAGE = Path(dj.__file__).parent


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bright:
    amount: float = 0.5
    unit: str = dataclasses.field(default="", metadata={"static": True})


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dark:
    amount: float = 0.5
    unit: str = dataclasses.field(default="", metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Foreign(samplers.DDIM):
    """Registered by JAX's own decorator."""


def test_two_classes_with_the_same_fields_differ_in_structure():
    assert jax.tree.structure(Bright()) != jax.tree.structure(Dark())
    assert jax.tree.structure(Bright()) == jax.tree.structure(Bright(0.1))
    assert jax.tree.structure(Bright()) != jax.tree.structure(Bright(unit="nit"))


def test_structures_of_samplers_are_equal_where_they_read_the_same():
    """Where they are equal without that, jit runs the program of one on the other for one pair in 128."""
    x = jnp.zeros((1, 4, 4, 1))
    more = [samplers.SelfConditioned(samplers.DPMSolverPP2S()), samplers.StridedPosterior(), Inversion(iterations=1)]
    trees = [*SAMPLERS.values(), *more, Replacement(samplers.DDIM(), x, x > 0), dj.Denoised(x, x)]
    structures = {jax.tree.structure(tree) for tree in trees}
    assert len(structures) > 20
    for a, b in itertools.combinations(structures, 2):
        assert str(a) != str(b)
        assert a != b, (a, b)


def test_only_this_decorator_is_used():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "pytrees.py":
            assert not re.search(r"tree_util\.register_dataclass|register_pytree", path.read_text()), path


def test_keys_name_the_traced_fields_and_arrays_pass_through():
    (path, leaf), *rest = jax.tree_util.tree_leaves_with_path({"a": Bright(2.0)})
    assert (jax.tree_util.keystr(path), leaf, rest) == ("['a'].amount", 2.0, [])
    stacked = jax.vmap(lambda amount: Bright(amount, "nit"))(jnp.arange(3.0))
    np.testing.assert_array_equal(stacked.amount, [0, 1, 2])
    assert stacked.unit == "nit"


def test_a_sampler_that_jax_has_registered_is_refused_in_one_line():
    schedule = dj.schedules.Cosine()

    def denoise(x_t, t):
        return dj.Denoised(x_t, x_t)

    for sampler in (Foreign(), samplers.SelfConditioned(Foreign())):
        with pytest.raises(ValueError, match="must be a registered pytree; put @dj.register_dataclass above.*[^\n]$"):
            dj.sample(jax.random.key(0), denoise, schedule, (1, 4, 4, 1), sampler=sampler, steps=2)


def test_the_other_order_of_decorators_and_hidden_fields_are_refused():
    with pytest.raises(ValueError, match="Swapped: put @dj.register_dataclass above @dataclasses.dataclass"):

        @dataclasses.dataclass(frozen=True)
        @dj.register_dataclass
        class Swapped(samplers.DDIM):
            share: float = 0.0

    with pytest.raises(ValueError, match="Hidden.cache: must be taken by the constructor"):

        @dj.register_dataclass
        @dataclasses.dataclass
        class Hidden:
            cache: float = dataclasses.field(default=0.0, init=False)
