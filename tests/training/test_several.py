"""Several steps in one call: the same bits as one after the other, with the default compiler options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from slow import slow

import diffusion_jax as dj
from diffusion_jax.runtime.mesh import MeshShape, make_mesh, put_batch, state_sharding

KEY = jax.random.key(1)
UNET = dj.models.UNet(channels=(4, 8), blocks=1, attention=(2,), groups=2, num_classes=10, dropout=0.1)
BROKEN = 3


def batches(n: int) -> list:
    """Batches of 16; the images of one are not finite."""
    drawn = [jax.device_get(tiny.batch(seed=k)) for k in range(n)]
    image = drawn[BROKEN]["image"].copy()
    image[5, 0, 0, 0] = np.nan
    drawn[BROKEN]["image"] = image
    return drawn


def stack(parts: list, size: int) -> dict:
    """Some batches as one array; what a shorter call leaves out is NaN, or no class."""
    unused = {"image": np.full_like(parts[0]["image"], np.nan), "label": np.full_like(parts[0]["label"], 99)}
    parts = parts + [unused] * (size - len(parts))
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def make(model, loss=None, mesh=None, **kwargs):
    """(a new state, the training step)"""
    tx, loss = optax.adamw(1e-2), loss or tiny.loss(label_drop=0.3)
    arguments = {"loss": loss, "skip_spikes": bool(kwargs.get("skip_spikes"))}
    state = dj.TrainState.create(jax.random.key(0), model, tx, (4, 4, 1), **arguments)
    state = state if mesh is None else jax.device_put(state, state_sharding(mesh, state))
    return state, dj.make_train_step(model, tx, loss, mesh=mesh, ema_decay=0.9, **kwargs)


def run_single(state, train_step, drawn, mesh=None) -> tuple:
    history = []
    for batch in drawn:
        batch = batch if mesh is None else put_batch(mesh, batch)
        state, metrics = train_step(state, batch, KEY)
        history.append(jax.device_get(metrics))
    return state, {name: [each[name] for each in history] for name in history[0]}


def run_calls(state, train_step, drawn, sizes, most, mesh=None) -> tuple:
    train_steps, history, start = dj.make_train_steps(train_step, mesh), [], 0
    for n in sizes:
        stacked = stack(drawn[start : start + n], most)
        state, metrics = train_steps(state, stacked if mesh is None else put_batch(mesh, stacked, True), KEY, n)
        history += [{name: x[i] for name, x in jax.device_get(metrics).items()} for i in range(n)]
        start += n
    assert train_steps.program._cache_size() == 1  # no other n compiles again
    return state, {name: [each[name] for each in history] for name in history[0]}


def assert_same(one, other):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), *jax.device_get((one, other)))


CASES = {
    "a U-Net": (UNET, None, {}),
    "micro-batches": (tiny.Affine(), None, {"accumulate": 4}),
    "a loss with memory": (tiny.Learned(), tiny.learning_loss(), {}),
    "spikes": (tiny.Affine(), None, {"skip_spikes": 3.0}),
}


@pytest.mark.parametrize("case", ["a U-Net", *slow("micro-batches", "a loss with memory", "spikes")])
def test_calls_give_the_bits_of_single_steps(case, default_options):
    assert_calls_are_single_steps(case, [4, 1, 3])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", [[1] * 8, [8]], ids=str)
def test_calls_of_one_step_and_of_all_too(case, sizes, default_options):
    assert_calls_are_single_steps(case, sizes)


def assert_calls_are_single_steps(case, sizes):
    model, loss, settings = CASES[case]
    drawn = batches(8)
    expected = run_single(*make(model, loss, **settings), drawn)
    assert [bool(cause) for cause in expected[1]["cause"]] == [k == BROKEN for k in range(8)]
    assert_same(run_calls(*make(model, loss, **settings), drawn, sizes, max(sizes)), expected)


@pytest.mark.parametrize("shape", [MeshShape(2, 1), *slow(MeshShape(1, 2))], ids=str)
def test_on_several_devices_too(shape, devices):
    mesh, drawn = make_mesh(shape, devices[:2]), batches(5)
    expected = run_single(*make(tiny.Affine(), mesh=mesh), drawn, mesh)
    assert_same(run_calls(*make(tiny.Affine(), mesh=mesh), drawn, [3, 2], 3, mesh), expected)


@pytest.mark.parametrize("n", [0, 4, -1, 2.0])
def test_a_call_has_as_many_batches_as_steps(n):
    state, train_step = make(tiny.Affine())
    with pytest.raises(ValueError, match=f"^n = {n}: must be an integer from 1 to 3"):
        dj.make_train_steps(train_step)(state, stack(batches(4)[:3], 3), KEY, n)


def test_what_is_left_of_the_metrics_is_zero():
    state, train_step = make(tiny.Affine())
    _, metrics = dj.make_train_steps(train_step)(state, stack(batches(4)[:2], 5), KEY, 2)
    assert all((x[2:] == 0).all() for x in metrics.values())
    assert (metrics["loss"][:2] > 0).all()
    assert jnp.isfinite(metrics["loss"]).all()
