"""This library's side: the training step and the sampler, as users run them."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from cases import Case
from measuring import Contestant, Prepared

import diffusion_jax as dj

NAME = "diffusion_jax"
LEARNING_RATE, DECAY = 2e-4, 0.9999
_MATMUL = {"cpu": 2048}  # side of the matrices of the ceiling; elsewhere 8192
_PRODUCTS = 8


def make_step(case: Case, batch: int) -> tuple[Any, dj.TrainState, dict[str, jax.Array]]:
    """(the training step, its first state, a batch on the device)."""
    tx = optax.adamw(LEARNING_RATE)
    step = dj.make_train_step(case.model, tx, case.loss, ema_decay=DECAY)
    state = dj.TrainState.create(jax.random.key(0), case.model, tx, image_shape=case.image_shape)
    return step, state, jax.device_put(case.draw_batch(batch))


def count_flops(lowered: jax.stages.Lowered) -> float:
    """Floating-point operations, counted in the program before compilation."""
    cost: Any = lowered.cost_analysis()
    return cost["flops"]


# Other ways to compute the same step: fields of the network, and the number of steps that are started at once.
VARIANTS: dict[str, tuple[str, dict[str, str], int]] = {
    "plain": ("make_train_step", {}, 1),
    "remat_activations": ("remat=activations", {"remat": "activations"}, 1),
    "remat_blocks": ("remat=blocks", {"remat": "blocks"}, 1),
    "cudnn": ("attention_kernel=cudnn", {"attention_kernel": "cudnn"}, 1),
    "several": ("10 steps per call", {}, 10),
}


def train_contestant(case: Case, batch: int, variant: str = "plain") -> Contestant:
    """The jitted training step, which donates the old state, in one of `VARIANTS`."""
    text, fields, most = VARIANTS[variant]
    case = dataclasses.replace(case, model=case.model.clone(**fields))

    def prepare() -> Prepared:
        case.model.check(case.image_shape)
        step, state, images = make_step(case, batch)
        key = jax.random.key(1)
        flops = count_flops(step.lower(state, images, key))
        take = _take_several(step, images, key, most) if most > 1 else lambda state, n: step(state, images, key)

        def run(calls: int) -> None:
            nonlocal state
            while calls > 0:
                state, metrics = take(state, min(calls, most))
                calls -= most
            jax.block_until_ready((state, metrics))
            if metrics["cause"].any():
                raise RuntimeError("our training step has skipped its batch")

        return Prepared(run, case.count_parameters(), flops)

    return Contestant(f"{NAME}, {text}", prepare, is_rival=variant != "plain")


def _take_several(step: Any, images: dict[str, jax.Array], key: jax.Array, most: int) -> Callable[..., Any]:
    """take(state, n): n steps in one call, all with the same batch."""
    train_steps = dj.make_train_steps(step)
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (most, *x.shape)), images)
    return lambda state, n: train_steps(state, stacked, key, n)


def sampling_contestants(case: Case, batch: int, steps: int) -> list[Contestant]:
    """`dj.sample` under jit, and `Run.sample`, which also returns the images to the host."""
    params = jax.jit(case.init)(jax.random.key(0))
    labels = case.draw_batch(batch).get("label")

    def generate(params: Any, key: jax.Array) -> jax.Array:
        predict = dj.predictions.Eps()
        denoise = dj.denoiser(case.model.apply, params, case.schedule, predict, labels=labels, clip=True)
        return dj.sample(key, denoise, case.schedule, (batch, *case.image_shape), steps=steps)

    def prepare_loop() -> Prepared:
        program, key = jax.jit(generate), jax.random.key(0)
        run = repeat(lambda: program(params, key))
        return Prepared(run, case.count_parameters(), steps * _count_forward(case, params, batch))

    def prepare_run() -> Prepared:
        run, key = make_run(case, params), jax.random.key(0)
        sample = repeat(lambda: run.sample(key, batch, labels=labels, steps=steps, batch_size=batch))
        return Prepared(sample, case.count_parameters())

    return [
        Contestant(f"{NAME}, dj.sample under jit", prepare_loop, is_rival=False),
        Contestant(f"{NAME}, Run.sample", prepare_run, is_rival=False, note="with the copy to the host"),
    ]


def repeat(call: Callable[[], Any]) -> Callable[[int], None]:
    """run(n): n calls, and the wait for all of them."""

    def run(calls: int) -> None:
        jax.block_until_ready([call() for _ in range(calls)])

    return run


def make_run(case: Case, params: Any) -> dj.Run:
    """A run with these parameters that samples by DDIM with clipped x0."""
    network = dj.Network(case.model, case.schedule, dj.predictions.Eps(), case.image_shape, case.model.num_classes)
    return dj.Run(network, params, dj.Sampling(dj.samplers.DDIM(), clip=True))


def _count_forward(case: Case, params: Any, batch: int) -> float:
    """FLOPs of one call of the network: the count of a loop over steps would hold one step alone."""
    x, time = jnp.zeros((batch, *case.image_shape)), jnp.zeros(batch)
    return count_flops(jax.jit(case.model.apply).lower(params, x, time, jnp.zeros(batch, int)))


def measure_ceiling(dtype: str, side: int = 0) -> float:
    """FLOP/s of a product of two square matrices in `dtype` on this device, the best of several."""
    side = side or _MATMUL.get(jax.default_backend(), 8192)
    a = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    multiply = jax.jit(jnp.matmul)
    return 2 * side**3 / min(_time_product(multiply, a) for _ in range(5))


def _time_product(multiply: Callable[..., jax.Array], a: jax.Array) -> float:
    jax.block_until_ready(multiply(a, a))
    start = time.perf_counter()
    jax.block_until_ready([multiply(a, a) for _ in range(_PRODUCTS)])
    return (time.perf_counter() - start) / _PRODUCTS
