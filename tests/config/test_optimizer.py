"""The `optimizer` section: learning rate, gradient clipping, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.optimizer import build_optimizer


def build(**spec):
    return build_optimizer({"name": "adamw", "lr_schedule": 1e-3, **spec}, allow_code=True)


def test_the_learning_rate_schedule_and_clipping_are_those_of_optax():
    rate = {"name": "linear_schedule", "init_value": 1.0, "end_value": 0.0, "transition_steps": 10}
    lr_schedule, tx = build(name="sgd", lr_schedule=rate, clip_norm=0.5)
    params = {"w": np.zeros(2, np.float32)}
    state = tx.init(params)
    for k in range(3):
        updates, state = tx.update({"w": np.array([3.0, 4.0], np.float32)}, state, params)
        # The gradient of norm 5 is scaled to 0.5, then multiplied by the rate at update k.
        np.testing.assert_allclose(updates["w"], -(1 - k / 10) * np.array([0.3, 0.4]), rtol=1e-5)
        assert float(lr_schedule(k)) == pytest.approx(1 - k / 10)


def test_a_number_is_a_constant_rate_and_without_clip_norm_the_optimizer_is_unchanged():
    lr_schedule, tx = build(name="sgd", lr_schedule=2)
    assert lr_schedule(0) == lr_schedule(10**6) == 2.0
    updates, _ = tx.update({"w": np.float32(300.0)}, tx.init({"w": np.float32(0.0)}))
    assert float(updates["w"]) == -600.0
    assert isinstance(tx, optax.GradientTransformation)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "adamx"}, "did you mean adamax"),
        ({"name": "constant_schedule"}, "must be an optimizer with a learning_rate, such as adamw"),
        ({"name": "tiny:not_an_optimizer"}, "must be an optimizer with a learning_rate, such as adamw"),
        ({"name": 3}, r"config\.optimizer = .*: must be dict\(name="),
        ({"weight_decay": float("inf")}, "weight_decay = inf: must be a finite number"),
        ({"weight_decai": 0.1}, "did you mean weight_decay"),
        ({"clip_nrom": 1.0}, r"config\.optimizer\.clip_nrom: there is no such field; did you mean clip_norm"),
        ({"learning_rate": 0.1}, r"config\.optimizer\.learning_rate: there is no such field"),
        ({"lr_schedule": -1.0}, "lr_schedule = -1.0: must be > 0"),
        ({"lr_schedule": 0.0}, r"config\.optimizer: lr_schedule = 0.0: must be > 0"),
        ({"lr_schedule": 0}, "lr_schedule = 0.0: must be > 0"),
        ({"lr_schedule": True}, "lr_schedule = True: must be a number"),
        ({"lr_schedule": "fast"}, r"config\.optimizer: lr_schedule = 'fast': must be a number"),
        ({"lr_schedule": {"name": "constant_schedul"}}, "did you mean constant_schedule"),
        ({"lr_schedule": {"name": "adam", "learning_rate": 1.0}}, "lr_schedule = .*: must be a number"),
        ({"clip_norm": "big"}, r"config\.optimizer\.clip_norm = 'big': must be of type float"),
        ({"clip_norm": -1.0}, r"config\.optimizer: clip_norm = -1.0: must be >= 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(spec, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(**spec)
    assert "\n" not in str(error.value)


def test_a_learning_rate_is_required():
    with pytest.raises(ConfigError, match="missing a required argument: 'lr_schedule'"):
        build_optimizer({"name": "adamw"}, allow_code=False)


class Astray(tiny.Affine):
    """Far from what it should be."""

    def init(self, key, x, time, labels):
        return super().init(key, x, time, labels) | {"u": jnp.float32(4.0)}


@pytest.mark.parametrize("name", ["lbfgs", "muon", "schedule_free_adamw"])
def test_line_search_and_the_optimizers_of_optax_contrib_are_found_by_name_and_learn(name):
    model, loss = Astray(), tiny.loss()
    _, tx = build_optimizer({"name": name, "lr_schedule": 0.3, "clip_norm": 1.0}, allow_code=False)
    train_step = dj.make_train_step(model, tx, loss)
    state = dj.TrainState.create(jax.random.key(0), model, tx, (4, 4, 1))
    losses = []
    for i in range(20):
        state, metrics = train_step(state, tiny.batch(seed=i), jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert metrics["skipped"] == 0
    assert sum(losses[15:]) < 0.7 * sum(losses[:5])
