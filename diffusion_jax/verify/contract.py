"""Whether a sampler keeps to the contract of `Sampler`, before anything is compiled."""

import jax
import jax.numpy as jnp

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import RectifiedFlow
from diffusion_jax.sampling.sample import picture_keys
from diffusion_jax.sampling.samplers import RK45, Sampler


def check_sampler(name: str, sampler: Sampler) -> None:
    """Traces a step, and the sampler's float fields with it, as `Run.sample` does.

    Raises ValueError, in one line, for one that fails or gives back something else.
    """
    if isinstance(sampler, RK45):
        raise ValueError(
            f"{name}: chooses its own steps, so it has no order in ours; the full verify has its row"
        )
    if not isinstance(getattr(sampler, "order", None), int | float):
        raise ValueError(f"{name}: has no order; declare it, order: ClassVar[int] = 1")
    x = jnp.zeros((2, 1, 1, 3))

    def step(sampler: Sampler, x_t: jax.Array, t: jax.Array, s: jax.Array):
        keys = picture_keys(jax.random.key(0), jnp.arange(len(x_t)))
        memory = sampler.init(x_t)
        return memory, sampler.step(keys, _denoise, RectifiedFlow(), x_t, t, s, memory)

    try:
        memory, made = jax.eval_shape(step, sampler, x, jnp.float32(0.5), jnp.float32(0.25))
    except Exception as error:  # it is somebody's code: anything may come
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(f"{name}: its step fails with {type(error).__name__}: {reason}") from error
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ValueError(f"{name}: step returns {type(made).__name__}, must return (x_s, memory)")
    x_s, after = made
    if _shapes(x_s) != _shapes(x):
        raise ValueError(f"{name}: step makes x_s of {_shapes(x_s)}, must be like x_t, {_shapes(x)}")
    if _shapes(after) != _shapes(memory):
        raise ValueError(
            f"{name}: step makes memory of {_shapes(after)}, must be like that of init, {_shapes(memory)}"
        )


def _denoise(x_t: jax.Array, t: jax.Array, **given) -> Denoised:
    return Denoised(x_t, x_t)


def _shapes(tree) -> str:
    """The tree with, in place of each array, its dtype and shape."""
    return str(jax.tree.map(lambda x: f"{jnp.dtype(x.dtype).name}{list(x.shape)}", tree)).replace("'", "")
