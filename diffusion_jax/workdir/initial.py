"""Parameters from elsewhere: which of them fit a network, and a training state that starts from them."""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np
import optax

from diffusion_jax.config.components import ConfigError
from diffusion_jax.runtime.weights import Weights, name_params
from diffusion_jax.training.plan import Plan
from diffusion_jax.training.state import TrainState

__all__ = ["check_initial", "compare_weights", "fill_params", "start_from"]

log = logging.getLogger(__name__)

_NAMED = 3  # parameters that a message lists


def compare_weights(weights: Weights, params: Any) -> dict[str, str]:
    """What of `weights` does not fit `params`, arrays or their shapes: parameter -> text."""
    target = name_params(params)
    shapes = {name: (_shape(weights, name), _shape(target, name)) for name in sorted(weights.keys() | target.keys())}
    return {name: f"{name} is {there}, here {here}" for name, (there, here) in shapes.items() if there != here}


def _shape(weights: Weights, name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "missing"


def fill_params(weights: Weights, params: Any) -> Any:
    """`params`, arrays or their shapes with a sharding, with every parameter that fits taken from `weights`."""
    faults = compare_weights(weights, params)
    named = name_params(params)
    filled = [leaf if name in faults else _place(weights[name], leaf) for name, leaf in named.items()]
    return jax.tree.unflatten(jax.tree.structure(params), filled)


def _place(value: Any, like: Any) -> jax.Array:
    # A copy of its own: the training step donates its state, whose leaves must not share memory. On a CPU, device_put
    # uses an aligned NumPy array in place, with may_alias=False too (jax 0.10.2, github.com/jax-ml/jax/issues/37830).
    return jax.device_put(np.array(value, like.dtype), like.sharding)


def check_initial(plan: Plan, weights: Weights, params: Any) -> None:
    """Raises ConfigError if weights do not fit, unless `train.init_partial` allows it; logs what does not."""
    faults = compare_weights(weights, params)
    fitting = len(name_params(params).keys() - faults.keys())
    more = f"; and {len(faults) - _NAMED} more" * (len(faults) > _NAMED)
    listed = "; ".join([*faults.values()][:_NAMED]) + more
    start = f'config.train.init_from = "{plan.init_from}"'
    if not fitting:
        raise ConfigError(f"{start}: no parameter fits ({listed}); use the network of that run")
    if faults and not plan.init_partial:
        raise ConfigError(
            f"{start}: {len(faults)} parameters do not fit ({listed}); use the network of that run, or set "
            "config.train.init_partial to True to start these parameters anew"
        )
    level = logging.WARNING if faults else logging.INFO
    anew = f" of {len(name_params(params))}; the others start anew: {listed}" * bool(faults)
    log.log(level, "starting from %s: %d parameters%s", plan.init_from, fitting, anew)


def start_from(state: TrainState, weights: Weights, tx: optax.GradientTransformation) -> TrainState:
    """`state` with the parameters, and their average, that fit taken from `weights`.

    The optimizer begins with them too, because some optimizers keep a copy of the first parameters.
    """
    params, ema_params = (fill_params(weights, each) for each in (state.params, state.ema_params))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    return dataclasses.replace(state, params=params, ema_params=ema_params, opt_state=opt_state)
