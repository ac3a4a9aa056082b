import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from slow import slow

import diffusion_jax as dj
from diffusion_jax.runtime.mesh import MeshShape, make_mesh, put_batch, state_sharding
from diffusion_jax.training import step as step_module

MESHES = [MeshShape(8, 1), MeshShape(1, 8), MeshShape(2, 4)]
RATE = optax.linear_schedule(0.1, 0.0, 10)


class Wide(tiny.Affine):
    """Affine, and a matrix large enough to be split over devices."""

    def init(self, key, x, time, labels):
        wide = {"m": jax.random.normal(key, (16, 1024)) / 32, "n": jnp.zeros((1024, 16))}
        return super().init(key, x, time, labels) | wide

    def apply(self, params, x, time, labels=None, train=False, rngs=None):
        mixed = jnp.tanh(x.reshape(-1, 16) @ params["m"]) @ params["n"]
        return super().apply(params, x, time, labels) + mixed.reshape(x.shape)


class Dropout(tiny.Affine):
    """A network whose output is one random number per image."""

    def apply(self, params, x, time, labels=None, train=False, rngs=None):
        return params["w"] * jnp.ones_like(x) * jax.random.normal(rngs["dropout"], (len(x), 1, 1, 1))


class ZeroTarget(dj.predictions.V):
    """The loss of an output is its square."""

    def target(self, x0, eps, alpha, sigma):
        return 0 * x0


def unet(**kwargs) -> dj.models.UNet:
    settings = {"channels": (4,), "blocks": 1, "attention": (), "groups": 2, "num_classes": 10}
    return dj.models.UNet(**(settings | kwargs))


def create_state(model, tx=None, mesh=None, loss=None) -> dj.TrainState:
    arguments = (jax.random.key(0), model, tx or optax.adamw(RATE), (4, 4, 1))
    if mesh is None:
        return dj.TrainState.create(*arguments, loss=loss)
    abstract = jax.eval_shape(lambda: dj.TrainState.create(*arguments, loss=loss))
    return dj.TrainState.create(*arguments, state_sharding(mesh, abstract), loss)


def train(steps: int, model, mesh=None, loss=None, **kwargs):
    """State and metrics after some steps on batches 0, 1, .."""
    # Not Adam, which divides by the root of tiny second moments and makes steps out of rounding.
    tx, loss = optax.sgd(0.1, momentum=0.9), loss or tiny.loss()
    train_step = dj.make_train_step(model, tx, loss, mesh=mesh, **kwargs)
    state = create_state(model, tx, mesh, loss)
    for k in range(steps):
        batch = tiny.batch(seed=k)
        batch = batch if mesh is None else put_batch(mesh, jax.device_get(batch))
        state, metrics = train_step(state, batch, jax.random.key(1))
    return state, metrics, train_step


def broken_batch():
    batch = tiny.batch()
    return batch | {"image": batch["image"].at[3, 0, 0, 0].set(jnp.nan)}


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def assert_same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


@pytest.fixture(scope="module")
def affine_step():
    """A step of Affine with AdamW at the learning rate RATE, which it reports; the average's decay is at most 0.3."""
    return dj.make_train_step(tiny.Affine(), optax.adamw(RATE), tiny.loss(), ema_decay=0.3, lr_schedule=RATE)


@pytest.fixture(scope="module")
def affine_state():
    """The state before the first step, on the host: the step donates what it is called with."""
    return jax.device_get(create_state(tiny.Affine()))


@pytest.fixture(scope="module")
def wide():
    """State and metrics of Wide after 3 steps on one device."""
    state, metrics, _ = train(3, Wide())
    return jax.device_get((state, metrics))


@pytest.mark.parametrize("accumulate", [2, 4, 16])
def test_accumulating_micro_batches_equals_one_batch(accumulate, wide):
    parts, metrics, _ = train(3, Wide(), accumulate=accumulate)
    assert_close(wide[0].params, parts.params, rtol=1e-4, atol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(wide[1]["loss"]), rel=1e-5)


def test_accumulate_must_divide_the_batch():
    with pytest.raises(ValueError, match="accumulate = 3: must divide batch size = 16"):
        train(1, tiny.Affine(), accumulate=3)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_every_micro_batch_and_every_step_has_its_own_dropout(accumulate):
    model, tx = Dropout(), optax.sgd(0.0)
    loss = dj.losses.DiffusionLoss(dj.schedules.Cosine(100), ZeroTarget())

    @jax.jit
    def compute_losses(key):
        examples = loss.draw(jax.random.key(0), tiny.batch())
        return step_module._compute_gradient(model, loss, {"w": jnp.float32(1.0)}, examples, key, accumulate)[1]

    assert len(np.unique(compute_losses(jax.random.key(1)))) == 16
    train_step = dj.make_train_step(model, tx, loss, accumulate=accumulate)
    state, values = create_state(model, tx), []
    for _ in range(3):
        state, metrics = train_step(state, tiny.batch(), jax.random.key(1))
        values.append(float(metrics["loss"]))
    assert len(set(values)) == 3


def follow_slope(step: float) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient to the parameters; its state is (value, value_fn here, its difference along the gradient)."""

    def update(updates, state, params, *, value, grad, value_fn):
        ahead, behind = (optax.apply_updates(params, optax.tree.scale(h, grad)) for h in (step, -step))
        slope = (value_fn(ahead) - value_fn(behind)) / (2 * step * optax.tree.norm(grad, squared=True))
        return updates, jnp.stack([value, value_fn(params), slope])

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(3), update)


@pytest.mark.parametrize("accumulate", [1, *slow(4)])
def test_an_optimizer_may_compute_the_loss_of_the_same_batch_elsewhere(accumulate):
    """With the same times, noise and dropout: along its own gradient the loss grows by the gradient's square."""
    model, tx = Dropout(), optax.chain(optax.clip_by_global_norm(0.1), follow_slope(1e-2))
    loss = dj.losses.DiffusionLoss(dj.schedules.Cosine(100), ZeroTarget())
    train_step = dj.make_train_step(model, tx, loss, accumulate=accumulate)
    state, metrics = train_step(create_state(model, tx), tiny.batch(), jax.random.key(1))
    value, same, slope = state.opt_state[1]
    assert value == metrics["loss"] > 0
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-2)


def test_a_rate_that_waits_for_a_plateau_sees_the_loss():
    """At a learning rate of 0 and without noise in the data the loss only fluctuates: after 3 batches it is halved."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=3, rtol=0.9)
    model, tx = tiny.Affine(), optax.chain(optax.sgd(0.0), plateau)
    train_step, state = dj.make_train_step(model, tx, tiny.loss()), create_state(model, tx)
    scales = []
    for _ in range(8):
        state, _ = train_step(state, tiny.batch(), jax.random.key(1))
        scales.append(float(state.opt_state[1].scale))
    assert scales == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_one_gradient_step_is_the_derivative_of_the_mean_loss():
    """Plain SGD moves each parameter by the slope of the loss, here by central differences."""
    model, loss, key = tiny.Affine(), tiny.loss(label_drop=0.0), jax.random.key(1)
    state = create_state(model, optax.sgd(1.0))
    before = jax.tree.map(np.array, state.params)
    step_key = jax.random.split(jax.random.fold_in(key, 0))[0]
    examples = jax.jit(loss.draw)(step_key, tiny.batch())

    @jax.jit
    def mean_loss(w):
        return jnp.mean(loss.per_example(model.apply, before | {"w": w}, examples))

    w = before["w"]
    slope = (float(mean_loss(w + np.float32(1e-2))) - float(mean_loss(w - np.float32(1e-2)))) / 2e-2
    state, metrics = dj.make_train_step(model, optax.sgd(1.0), loss)(state, tiny.batch(), key)
    assert float(w - state.params["w"]) == pytest.approx(slope, rel=1e-3)
    assert float(metrics["loss"]) == pytest.approx(float(mean_loss(w)), rel=1e-5)


def test_ema_averages_the_new_parameters_with_a_warm_up_that_skipped_batches_do_not_age(affine_step, affine_state):
    state, expected, updates = affine_state, np.float64(affine_state.ema_params["w"]), 0
    for batch in (tiny.batch(), broken_batch(), broken_batch(), *(tiny.batch(seed=k) for k in range(1, 6))):
        skipped = int(state.skipped)
        state, _ = affine_step(state, batch, jax.random.key(1))
        if int(state.skipped) == skipped:
            decay = min(0.3, (1 + updates) / (10 + updates))
            expected = decay * expected + (1 - decay) * np.float64(state.params["w"])
            updates += 1
        assert float(state.ema_params["w"]) == pytest.approx(expected, rel=1e-5)
    assert (updates, int(state.skipped)) == (6, 2)


def test_a_batch_that_is_not_finite_changes_nothing_and_is_counted(affine_step, affine_state):
    state, _ = affine_step(affine_state, tiny.batch(), jax.random.key(1))
    before = jax.tree.map(np.array, state)
    state, metrics = affine_step(state, broken_batch(), jax.random.key(1))
    assert int(state.step) == 2
    assert int(state.skipped) == int(metrics["skipped"]) == 1
    assert_same_bits(state, dataclasses.replace(before, step=state.step, skipped=state.skipped))
    state, _ = affine_step(state, tiny.batch(), jax.random.key(1))
    assert float(state.params["w"]) != float(before.params["w"])


def test_an_update_that_is_not_finite_changes_nothing_either():
    model, tx = tiny.Affine(), optax.sgd(float("nan"))
    state = create_state(model, tx)
    before = np.asarray(state.params["w"])
    state, metrics = dj.make_train_step(model, tx, tiny.loss())(state, tiny.batch(), jax.random.key(1))
    assert int(metrics["skipped"]) == 1
    np.testing.assert_array_equal(state.params["w"], before)


def test_many_updates_do_not_overflow(affine_step, affine_state):
    """Adam counts in int32, whose square passes its limit at 46 341."""
    adam, *rest = affine_state.opt_state
    late = dataclasses.replace(affine_state, opt_state=(adam._replace(count=np.int32(100_000)), *rest))
    _, metrics = affine_step(late, tiny.batch(), jax.random.key(1))
    assert int(metrics["skipped"]) == 0


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_a_mesh_of_eight_trains_as_one_device_does(shape, devices, wide):
    state, metrics, train_step = train(3, Wide(), make_mesh(shape, devices))
    assert_close(wide[0].params, jax.device_get(state.params), rtol=1e-4, atol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(wide[1]["loss"]), rel=1e-5)
    assert train_step._cache_size() == 1  # the sharding of the state stays the same: nothing recompiles
    if shape == MeshShape(1, 8):  # each device holds an eighth of every large leaf
        for tree in (state.params, state.ema_params, state.opt_state):
            large = [x for x in jax.tree.leaves(tree) if x.size >= 2**14]
            assert large
            assert all(x.addressable_shards[0].data.size == x.size // 8 for x in large)


@pytest.mark.slow
def test_a_unet_trains_on_a_mesh_as_on_one_device(devices):
    model, tx, mesh = unet(), optax.sgd(0.1), make_mesh(MeshShape(2, 4), devices)
    abstract, rng = jax.eval_shape(lambda: create_state(model, tx)), np.random.default_rng(0)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    # Not as it is initialised, where blocks are zeros and stop the gradient.
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), state.params)
    state = dataclasses.replace(state, params=params)
    single, metrics = dj.make_train_step(model, tx, tiny.loss())(state, tiny.batch(), jax.random.key(1))
    placed = jax.device_put(state, state_sharding(mesh, state)), put_batch(mesh, jax.device_get(tiny.batch()))
    sharded, sharded_metrics = dj.make_train_step(model, tx, tiny.loss(), mesh=mesh)(*placed, jax.random.key(1))
    assert float(metrics["grad_norm"]) == pytest.approx(float(sharded_metrics["grad_norm"]), rel=1e-4)
    assert_close(single.params, jax.device_get(sharded.params), rtol=1e-4, atol=1e-5)


def test_noise_is_of_the_global_batch_whatever_the_mesh(devices):
    """Every device drawing the same t and eps is a known way to lose most of a batch's variance."""
    mesh, loss, key = make_mesh(MeshShape(8, 1), devices), tiny.loss(), jax.random.key(3)
    host = jax.device_get(tiny.batch())
    sharded = jax.jit(loss.draw)(key, put_batch(mesh, host))
    assert_same_bits(sharded, jax.jit(loss.draw)(jax.random.key(3), tiny.batch()))
    noise = np.asarray(sharded.eps).reshape(16, -1)
    correlation = np.abs(np.corrcoef(noise) - np.eye(16))
    assert correlation.max() < 0.95
    assert len(np.unique(np.asarray(sharded.t))) > 8


def test_the_learning_rate_reported_is_the_one_of_the_update(affine_step, affine_state):
    state, rates = affine_state, []
    for batch in (tiny.batch(), broken_batch(), tiny.batch(), tiny.batch()):
        state, metrics = affine_step(state, batch, jax.random.key(1))
        rates.append(float(metrics["learning_rate"]))
    assert rates == pytest.approx([0.1, 0.09, 0.09, 0.08])  # the broken batch did not count


def test_each_step_draws_other_times_and_noise(affine_step, affine_state):
    """With the same parameters and batch, the loss differs at every step."""
    losses = []
    for step in range(4):
        state = dataclasses.replace(affine_state, step=np.int32(step))
        losses.append(float(affine_step(state, tiny.batch(), jax.random.key(1))[1]["loss"]))
    assert len(set(losses)) == 4


def test_bfloat16_computes_but_does_not_store():
    model, tx = unet(dtype="bfloat16"), optax.adamw(1e-2)
    state = jax.eval_shape(lambda: create_state(model, tx))
    train_step = dj.make_train_step(model, tx, tiny.loss())
    new, metrics = jax.eval_shape(train_step, state, tiny.batch(), jax.random.key(1))
    floats = [x for x in jax.tree.leaves((new, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert len(floats) > 100
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    assert "bf16" in train_step.lower(state, tiny.batch(), jax.random.key(1)).as_text()


def test_the_old_state_is_donated(affine_step, affine_state):
    state = jax.device_put(affine_state)
    affine_step(state, tiny.batch(), jax.random.key(1))
    assert state.params["w"].is_deleted()


def test_gradient_descent_finds_the_least_squares_solution():
    """For x0 of unit variance the best x0-hat = w x_t has w = alpha / (alpha^2 + sigma^2)."""
    schedule = dj.schedules.RectifiedFlow()

    class AtHalf(dj.losses.Times):
        def draw(self, key, schedule, n):
            return jnp.full(n, 0.5)

    loss = dj.losses.DiffusionLoss(schedule, dj.predictions.X0(), times=AtHalf(), label_drop=0.0)
    model, tx = tiny.Affine(), optax.sgd(0.2)
    train_step = dj.make_train_step(model, tx, loss, ema_decay=0.98)
    state = create_state(model, tx)
    for k in range(300):
        image = jax.random.normal(jax.random.key(k), (256, 4, 4, 1))
        state, _ = train_step(state, {"image": image}, jax.random.key(1))
    assert float(state.ema_params["w"]) == pytest.approx(0.5 / (0.25 + 0.25), abs=0.02)


# A loss that learns from the batches


@pytest.fixture(scope="module")
def learning():
    """A step, and the state after three batches of 16: enough for uneven draws of the four times."""
    state, _, train_step = train(3, tiny.Learned(), loss=tiny.learning_loss())
    return train_step, jax.device_get(state)


@pytest.mark.slow
def test_the_memory_is_of_the_losses_as_they_are_not_as_they_are_weighted(learning):
    """Followed step by step: the examples that the step draws, their losses, and what is kept of them."""
    (train_step, _), loss, apply = learning, tiny.learning_loss(), tiny.Learned().apply
    state = create_state(tiny.Learned(), optax.sgd(0.1, momentum=0.9), loss=loss)
    memory = loss.init()

    @jax.jit
    def expected(params, memory, batch, step):
        key = jax.random.split(jax.random.fold_in(jax.random.key(1), step))[0]
        examples = loss.draw(key, batch, memory)
        losses = loss.per_example(apply, params, examples)
        return examples.weight, losses, loss.update(memory, examples, losses)

    for k in range(3):
        weight, losses, memory = expected(state.params, memory, tiny.batch(seed=k), k)
        state, metrics = train_step(state, tiny.batch(seed=k), jax.random.key(1))
        assert float(metrics["loss"]) == pytest.approx(float(np.mean(weight * losses)), rel=1e-4)
        assert_close(state.memory, memory, rtol=1e-4)
    assert np.ptp(weight) > 0.1


def test_micro_batches_remember_what_one_batch_does(learning):
    parts, _, _ = train(3, tiny.Learned(), loss=tiny.learning_loss(), accumulate=4)
    assert_close(jax.device_get(parts), learning[1], rtol=1e-4, atol=1e-5)


def test_a_mesh_remembers_what_one_device_does(learning, devices):
    mesh = make_mesh(MeshShape(2, 4), devices)
    state, _, train_step = train(3, tiny.Learned(), mesh, loss=tiny.learning_loss())
    assert_close(jax.device_get(state), learning[1], rtol=1e-4, atol=1e-5)
    assert train_step._cache_size() == 1


def test_a_batch_that_is_not_finite_is_not_remembered(learning):
    train_step, before = learning
    state, metrics = train_step(jax.device_put(before), broken_batch(), jax.random.key(1))
    assert int(metrics["skipped"]) == 1
    assert_same_bits(state.memory, before.memory)


def test_a_state_without_the_loss_s_memory_is_refused():
    model, tx = tiny.Learned(), optax.sgd(0.1)
    train_step = dj.make_train_step(model, tx, tiny.learning_loss())
    with pytest.raises(ValueError, match=r"state\.memory .* HybridLoss; use TrainState\.create\(.*loss=loss"):
        train_step(create_state(model, tx), tiny.batch(), jax.random.key(1))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"ema_decay": 1.0}, "ema_decay = 1.0"), ({"accumulate": 0}, "accumulate = 0")],
)
def test_bad_settings_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        dj.make_train_step(tiny.Affine(), optax.sgd(0.1), tiny.loss(), **kwargs)


def test_micro_batches_are_taken_from_all_over_the_batch():
    parts = step_module._split_batch(jnp.arange(12), 3)
    assert parts.shape == (3, 4)
    assert sorted(parts.ravel().tolist()) == list(range(12))
    np.testing.assert_array_equal(step_module._join_batch(parts), np.arange(12))
    # Each of 4 devices holds a run of three examples and gives one to each part.
    assert all(sorted(row // 3) == [0, 1, 2, 3] for row in np.asarray(parts))


# Why a batch is skipped


class Root(tiny.Affine):
    """A finite loss whose gradient is not: the root of 0."""

    def apply(self, params, x, time, labels=None, train=False, rngs=None):
        return jnp.sqrt(params["w"] * 0) * jnp.ones_like(x)


class Infinite(tiny.Affine):
    def apply(self, params, x, time, labels=None, train=False, rngs=None):
        return x * params["w"] / 0


@pytest.mark.parametrize(
    ("model", "tx", "batch", "cause"),
    [
        (tiny.Affine(), optax.sgd(0.1), tiny.batch(), ""),
        (tiny.Affine(), optax.sgd(0.1), broken_batch(), "the images are not finite"),
        (Infinite(), optax.sgd(0.1), tiny.batch(), "the loss is not finite"),
        (Root(), optax.sgd(0.1), tiny.batch(), "the gradient is not finite"),
        (tiny.Affine(), optax.sgd(float("nan")), tiny.batch(), "the updated parameters are not finite"),
    ],
)
def test_the_cause_of_a_skipped_batch_is_told(model, tx, batch, cause):
    _, metrics = dj.make_train_step(model, tx, tiny.loss())(create_state(model, tx), batch, jax.random.key(1))
    assert step_module.CAUSES[int(metrics["cause"])] == cause
    assert int(metrics["skipped"]) == bool(cause)


def spiky(factor: float, spike: float):
    """Trains on 30 batches alike, then on one whose images are `spike` times as large, then on one more."""
    model, tx = tiny.Affine(), optax.sgd(1e-6)
    loss = dj.losses.DiffusionLoss(dj.schedules.Cosine(100), dj.predictions.V())
    train_step = dj.make_train_step(model, tx, loss, skip_spikes=factor)
    state = dj.TrainState.create(jax.random.key(0), model, tx, (4, 4, 1), skip_spikes=bool(factor))
    causes = []
    for k in range(32):
        batch = tiny.batch(64, seed=k)
        batch["image"] *= spike if k == 30 else 1.0
        state, metrics = train_step(state, batch, jax.random.key(1))
        causes.append(int(metrics["cause"]))
    return causes, state


@pytest.mark.parametrize(("factor", "spike", "skipped"), [(3.0, 20.0, True), (3.0, 1.0, False), (1e6, 20.0, False)])
def test_a_spike_is_skipped_above_a_multiple_of_the_median(factor, spike, skipped):
    causes, state = spiky(factor, spike)
    expected = [0] * 30 + [step_module.CAUSES.index("the loss or the gradient norm is far above its median")] + [0]
    assert causes == (expected if skipped else [0] * 32)
    assert np.isfinite(state.recent).sum() == 2 * (31 if skipped else 32)  # a spike does not count for the median


def test_without_the_option_nothing_is_remembered():
    causes, state = spiky(0.0, 20.0)
    assert causes == [0] * 32
    assert state.recent == ()


@pytest.mark.parametrize(("option", "created"), [(3.0, False), (0.0, True)])
def test_a_state_that_does_not_fit_the_option_is_refused(option, created):
    model, tx = tiny.Affine(), optax.sgd(0.1)
    state = dj.TrainState.create(jax.random.key(0), model, tx, (4, 4, 1), skip_spikes=created)
    train_step = dj.make_train_step(model, tx, tiny.loss(), skip_spikes=option)
    with pytest.raises(ValueError, match=f"skip_spikes = {option}: use TrainState.create"):
        train_step(state, tiny.batch(), jax.random.key(1))


class Diagonal:
    """x times one number, for data of any shape."""

    def init(self, key, x, time, labels):
        return {"w": jnp.float32(0.5)}

    def apply(self, params, x, time, labels, train=False, rngs=None):
        return params["w"] * x


@pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 3, 2, 1)], ids=["points", "audio", "volumes"])
def test_data_of_any_shape_are_trained_on_as_images_are(shape):
    data = np.random.default_rng(0).normal(0, 1, (8, 6)).astype(np.float32)
    tx, losses = optax.sgd(0.1), []
    for each in (shape, (2, 3, 1)):
        state = dj.TrainState.create(jax.random.key(0), Diagonal(), tx, image_shape=each)
        train_step = dj.make_train_step(Diagonal(), tx, tiny.loss())
        _, metrics = train_step(state, {"image": data.reshape(-1, *each)}, jax.random.key(1))
        assert metrics["cause"] == 0
        losses.append(metrics["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
