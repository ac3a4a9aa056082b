"""NNX modules as networks: their parameters, dropout and classes, what is refused, and the way through a run."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from nnx_networks import MLP, Conv, Learned, Noise, Tied, Unhashable, WithArray, WithBatchNorm, make_model
from oracles import quick_jit
from prepared import one_line

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment


class LinenConv(nn.Module):
    """The same in Linen."""

    @nn.compact
    def __call__(self, x, time, labels):
        condition = nn.Dense(8, name="time")(time[:, None]) + nn.Embed(11, 8, name="classes")(labels + 1)
        y = nn.GroupNorm(2, name="norm")(nn.Conv(8, (3, 3), name="conv0")(x)) + condition[:, None, None, :]
        return nn.Conv(1, (3, 3), name="conv1")(nn.silu(y))


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x, time, labels):
        y = nn.Dense(16, name="inner")(jnp.concatenate([x, time[:, None]], axis=-1))
        return nn.Dense(2, name="outer")(nn.gelu(y))


KEY = jax.random.key(0)
X, TIME, LABELS = jax.random.normal(KEY, (4, 4, 4, 1)), jnp.linspace(0.1, 0.9, 4), jnp.array([0, 9, -1, 3])


def init(model, key=KEY):
    return quick_jit(model.init)(key, X, TIME, LABELS)


def test_a_convolutional_network_is_that_of_linen_with_the_same_weights():
    model = make_model()
    params = init(model)
    theirs = {"conv0": params["layers"]["0"], "conv1": params["layers"]["1"]}
    theirs |= {name: params[name] for name in ("norm", "time", "classes")}
    expected = quick_jit(LinenConv().apply)({"params": theirs}, X, TIME, LABELS)
    np.testing.assert_allclose(quick_jit(model.apply)(params, X, TIME, LABELS), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() > 0.1


def test_an_mlp_of_points_is_that_of_linen_with_the_same_weights():
    model, x = dj.models.from_nnx(MLP), X.reshape(32, 2)[:4]
    params = init(model)
    expected = LinenMLP().apply({"params": params}, x, TIME, None)
    np.testing.assert_allclose(model.apply(params, x, TIME), expected, rtol=1e-5, atol=1e-6)


def test_the_parameters_are_those_that_the_key_makes_in_plain_dictionaries():
    model = make_model()
    params = init(model)
    expected = Conv(rngs=nnx.Rngs(KEY))
    np.testing.assert_allclose(params["layers"]["1"]["kernel"], expected.layers[1].kernel[...], rtol=1e-5, atol=1e-6)
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)}
    assert {"layers/0/kernel", "norm/scale", "classes/embedding"} <= names
    assert not any("dropout" in name for name in names)
    other = init(model, jax.random.key(1))
    assert np.abs(params["time"]["kernel"] - other["time"]["kernel"]).min() > 1e-4


def test_labels_may_be_left_out():
    model = make_model()
    params = init(model)
    expected = model.apply(params, X, TIME, jnp.full(4, -1))
    np.testing.assert_array_equal(model.apply(params, X, TIME), expected)


def test_a_layer_with_two_names_has_one_set_of_parameters():
    model = dj.models.from_nnx(Tied)
    params = init(model)
    assert len(jax.tree.leaves(params)) == 2
    gain = params["back"]["kernel"][0, 0]
    np.testing.assert_allclose(model.apply(params, X, TIME), gain**2 * X, rtol=1e-5)


def test_dropout_follows_the_key_in_training_and_is_off_otherwise():
    model = dj.models.from_nnx(Noise)
    params = init(model)

    def train(key):
        return np.asarray(model.apply(params, X, TIME, LABELS, train=True, rngs={"dropout": key}))

    np.testing.assert_array_equal(train(KEY), train(KEY))
    masks = [train(jax.random.key(i)) > 0 for i in range(4)]
    assert all((masks[0] != mask).any() for mask in masks[1:])
    assert (masks[0][..., 0] != masks[0][..., 1]).any()  # each layer has its own
    assert abs(np.mean(masks) - 0.5) < 5 * 0.5 / np.sqrt(np.size(masks))
    np.testing.assert_array_equal(model.apply(params, X, TIME, LABELS, rngs={"dropout": KEY}), 1.0)
    with pytest.raises(ValueError, match='rngs is missing: .*; use rngs={"dropout": key}') as error:
        model.apply(params, X, TIME, LABELS, train=True)
    one_line(error)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (WithBatchNorm, r"layers\.1\.mean is of type BatchStat, .*: use a layer without, such as GroupNorm"),
        (WithArray, "frequencies is an array outside of a Param: make it a Param, or compute it in __call__"),
        (Unhashable, "create makes a module with an attribute that is not hashable: unhashable type: 'list'"),
        (MLP(rngs=nnx.Rngs(0)), "create = MLP: must be a function of rngs that returns a module, such as lambda"),
        ("my:Net", "create = 'my:Net': must be a function of rngs"),
        (lambda rngs: None, "create returns NoneType: must return a module of flax.nnx"),
    ],
)
def test_what_is_no_network_is_refused(create, message):
    with pytest.raises(ValueError, match=message) as error:
        dj.models.from_nnx(create)
    one_line(error)


def test_the_number_of_classes_is_checked():
    with pytest.raises(ValueError, match="num_classes = -1: must be an integer >= 0"):
        dj.models.from_nnx(MLP, num_classes=-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: {"inner": params["inner"]}, "params: outer/bias is missing; use parameters that"),
        (lambda params: params | {"extra": {"b": 0}}, "params: extra/b is not a parameter of this network"),
    ],
)
def test_parameters_of_another_network_are_refused(change, message):
    model = dj.models.from_nnx(MLP)
    with pytest.raises(ValueError, match=message) as error:
        model.apply(change(init(model)), X.reshape(32, 2)[:4], TIME)
    one_line(error)


def test_networks_of_the_same_structure_are_equal_and_do_not_recompile():
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def apply(model, params):
        traced.append(model)
        return model.apply(params, X, TIME, LABELS)

    model = make_model()
    params = init(model)
    apply(model, params)
    apply(make_model(), params)
    assert len(traced) == 1
    others = [make_model(16), make_model(num_classes=10), dj.models.from_nnx(functools.partial(Conv, 8, 0.1))]
    assert all(model != other for other in others)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_it_trains_with_dropout_and_generates_images(accumulate):
    model = dj.models.from_nnx(functools.partial(Conv, 8, 0.1), num_classes=10)
    loss, tx = tiny.loss(), optax.adam(3e-3)
    state = dj.TrainState.create(KEY, model, tx, image_shape=(4, 4, 1))
    train_step = dj.make_train_step(model, tx, loss, accumulate=accumulate)
    losses = []
    for _ in range(60):
        state, metrics = train_step(state, tiny.batch(), jax.random.key(1))
        losses.append(metrics["loss"])
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    denoise = dj.denoiser(model.apply, state.ema_params, loss.schedule, loss.prediction, labels=[1, 2])
    x = dj.sample(KEY, denoise, loss.schedule, (2, 4, 4, 1), steps=4)
    assert x.shape == (2, 4, 4, 1)
    assert np.isfinite(x).all()


def test_it_may_learn_a_variance_from_its_own_estimates():
    model = dj.models.from_nnx(Learned, num_classes=10, learn_variance=True, self_condition=True)
    loss, tx = tiny.learning_loss(), optax.adam(1e-3)
    state = dj.TrainState.create(KEY, model, tx, image_shape=(4, 4, 1), loss=loss)
    before = jax.device_get(state.params)
    state, metrics = dj.make_train_step(model, tx, loss)(state, tiny.batch(), KEY)
    assert metrics["cause"] == 0
    assert (before["mix"]["kernel"] != state.params["mix"]["kernel"]).all()


def test_a_config_names_a_function_that_makes_it(tmp_path):
    config = tiny.config({"name": "nnx_networks:make_model", "width": 4}, steps=4, eval_every=0, checkpoint_every=2)
    assert dj.train(config, tmp_path)
    with pytest.raises(ConfigError, match="may not import code"):
        dj.load(tmp_path)
    run, again = dj.load(tmp_path, allow_code=True), dj.load(tmp_path, allow_code=True)
    assert run.network.num_classes == 10  # those of the data
    assert run.network == again.network
    assert run.params["layers"]["0"]["kernel"].shape == (3, 3, 1, 4)
    assert run.sample(KEY, 2, labels=[3, 7], steps=2).shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nnx_networks:make_batch_norm", r"config.model: layers\.1\.mean is of type BatchStat"),
        ("from_nnx", r'config.model.name = "from_nnx": unknown name; use one of ConvNeXtUNet, FiLMUNet, UNet$'),
    ],
)
def test_a_config_refuses_what_cannot_be_trained(name, message):
    with pytest.raises(ConfigError, match=message) as error:
        Experiment.from_config(tiny.config({"name": name}), (8, 8, 1), 10)
    one_line(error)


class _WithTrain(nnx.Module):
    def __init__(self, *, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, time, labels, train=False):
        return self.dropout(x, deterministic=not train)


class _WithDeterministic(_WithTrain):
    def __call__(self, x, time, labels, deterministic=True):
        return self.dropout(x, deterministic=deterministic)


@pytest.mark.parametrize("module", [_WithTrain, _WithDeterministic])
def test_a_module_that_is_told_its_mode_by_an_argument_drops_out_in_training(module):
    model, x = dj.models.from_nnx(module), jnp.ones((2, 64))
    params = model.init(jax.random.key(0))
    trained = model.apply(params, x, jnp.zeros(2), train=True, rngs={"dropout": jax.random.key(1)})
    assert 0.2 < (trained == 0).mean() < 0.8
    assert (model.apply(params, x, jnp.zeros(2)) == x).all()


def test_a_constructor_that_needs_more_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"create\(rngs=...\) fails: .*width.*; give a function") as error:
        dj.models.from_nnx(lambda width, *, rngs: None)
    one_line(error)
