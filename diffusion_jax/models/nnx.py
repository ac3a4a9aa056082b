"""Networks in Flax NNX, as the pure functions `init` and `apply` that training and sampling call."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.validation import Checked, describe, integer

__all__ = ["NNXNetwork", "from_nnx"]


class _Leaf(NamedTuple):
    """A parameter, or the key or count of a random stream, of an NNX module."""

    path: tuple[Any, ...]
    kind: type[nnx.Variable]
    value: jax.ShapeDtypeStruct

    @property
    def names(self) -> tuple[str, ...]:
        """The path in the dictionary of parameters, whose keys are all text, as in a checkpoint."""
        return tuple(map(str, self.path))


@dataclasses.dataclass(frozen=True)
class NNXNetwork(Checked):
    """A network made by `from_nnx`. Networks of the same structure are equal, so that jit does not recompile.

    Attributes:
      create: create(rngs=...) returns the module with new parameters.
      graph, leaves: the structure of the module.
      num_classes, learn_variance, self_condition: as in `from_nnx`.
    """

    create: Callable[..., nnx.Module] = dataclasses.field(compare=False)
    graph: nnx.GraphDef = dataclasses.field(repr=False)
    leaves: tuple[_Leaf, ...] = dataclasses.field(repr=False)
    num_classes: int = dataclasses.field(metadata=integer(0))
    learn_variance: bool
    self_condition: bool

    def init(self, key: jax.Array, *inputs: Any) -> dict[str, Any]:
        """New parameters, a nested dictionary; the inputs x, time and labels are not used."""
        params = nnx.to_flat_state(nnx.state(self.create(rngs=nnx.Rngs(key)), nnx.Param))
        return traverse_util.unflatten_dict({tuple(map(str, path)): param.get_value() for path, param in params})

    def apply(
        self,
        params: Mapping[str, Any],
        x: jax.Array,
        time: jax.Array,
        labels: jax.Array | None = None,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
        **kwargs: jax.Array,
    ) -> jax.Array:
        """The output of the module for x [B, ...], time [B] and labels [B], or None for no labels.

        With `train`, the module is in its training mode and its random streams start from rngs["dropout"]. Further
        arguments, such as x0_hat, are passed on. Raises ValueError for the parameters of another network, and if a
        network with random streams is trained without a key.
        """
        if train and "dropout" not in (rngs or {}) and any(issubclass(leaf.kind, nnx.RngKey) for leaf in self.leaves):
            raise ValueError('rngs is missing: this network uses random numbers in training; use rngs={"dropout": key}')
        key = (rngs or {}).get("dropout", jax.random.key(0))  # the latter is not used, outside of training
        module = nnx.merge(self.graph, self._fill(params, key))
        module.train() if train else module.eval()
        labels = jnp.full(time.shape, NO_LABEL) if labels is None else labels
        return module(x, time, labels, **_modes(module, train), **kwargs)

    def _fill(self, params: Mapping[str, Any], key: jax.Array) -> dict[Any, Any]:
        """The state of the module, with `params` and random streams that start from `key`."""
        flat = traverse_util.flatten_dict(params)
        names = {leaf.names for leaf in self.leaves if issubclass(leaf.kind, nnx.Param)}
        if wrong := sorted(names ^ flat.keys()):
            problem = "is missing" if wrong[0] in names else "is not a parameter of this network"
            raise ValueError(f"params: {'/'.join(wrong[0])} {problem}; use parameters that its `init` returned")

        def value(i: int, leaf: _Leaf) -> jax.Array:
            if issubclass(leaf.kind, nnx.Param):
                return flat[leaf.names]
            if issubclass(leaf.kind, nnx.RngKey):
                return jax.random.split(jax.random.fold_in(key, i), leaf.value.shape)
            return jnp.zeros(leaf.value.shape, leaf.value.dtype)

        return traverse_util.unflatten_dict({leaf.path: value(i, leaf) for i, leaf in enumerate(self.leaves)})


def from_nnx(
    create: Callable[..., Any], num_classes: int = 0, learn_variance: bool = False, self_condition: bool = False
) -> NNXNetwork:
    """Returns the network of an NNX module, for `TrainState.create`, `make_train_step`, `denoiser` and configs.

    The module is called as module(x, time, labels), with x float32 [B, ...], time float32 [B] and labels int32 [B],
    -1 for no class, and with train=True or deterministic=False in training if it has such an argument; a
    self-conditioned module also as module(x, time, labels, x0_hat=...). It returns an array shaped
    like x, or of twice the channels if it learns its variance. Dropout is active in training only. Parameters are a
    nested dictionary of arrays, named like the attributes of the module.

    In a config, name a function of your own that returns the network: model=dict(name="my_pkg.my_module:make_model").

    Args:
      create: create(rngs=nnx.Rngs) returns the module with new parameters, each time it is called: a class of modules
        or a function. It is a function because an instance has its parameters already, whatever the key.
      num_classes: number of classes that the module takes; 0 for none.
      learn_variance: the second half of its channels is the variance, as in the other networks.
      self_condition: it takes x0_hat, its own estimate of x0.

    Raises ValueError if `create` does not return a module, or the module has a state that is neither a parameter nor
    the key of a random stream, such as the statistics of batch norm.

    >>> from flax import nnx
    >>> class Scaled(nnx.Module):
    ...     def __init__(self, *, rngs):
    ...         self.scale = nnx.Param(jax.random.normal(rngs.params(), (1,)))
    ...         self.dropout = nnx.Dropout(0.1, rngs=rngs)
    ...     def __call__(self, x, time, labels):
    ...         return self.dropout(self.scale * x)
    >>> model = dj.models.from_nnx(Scaled)
    >>> x, time = jnp.ones((2, 8, 8, 1)), jnp.full(2, 0.5)
    >>> params = model.init(jax.random.key(0), x, time, None)
    >>> params["scale"].shape, model.apply(params, x, time).shape
    ((1,), (2, 8, 8, 1))
    """
    if isinstance(create, nnx.Module) or not callable(create):
        name = type(create).__name__ if isinstance(create, nnx.Module) else describe(create)
        example = "lambda rngs: MyModule(rngs=rngs)"
        raise ValueError(f"create = {name}: must be a function of rngs that returns a module, such as {example}")
    try:
        module = nnx.eval_shape(lambda: create(rngs=nnx.Rngs(0)))
    except TypeError as error:
        raise ValueError(f"create(rngs=...) fails: {error}; give a function of rngs alone") from error
    if not isinstance(module, nnx.Module):
        raise ValueError(f"create returns {type(module).__name__}: must return a module of flax.nnx")
    graph, state = nnx.split(module)
    leaves = tuple(_as_leaf(path, value) for path, value in nnx.to_flat_state(state))
    _check_static(graph)
    return NNXNetwork(create, graph, leaves, num_classes, learn_variance, self_condition)


def _modes(module: nnx.Module, train: bool) -> dict[str, bool]:
    """The arguments `train` and `deterministic`, if the module has them: they would hide its own mode from dropout."""
    parameters = inspect.signature(type(module).__call__).parameters
    return {name: on for name, on in (("train", train), ("deterministic", not train)) if name in parameters}


_ARRAY = "{} is an array outside of a Param: make it a Param, or compute it in __call__"


def _as_leaf(path: tuple[Any, ...], value: Any) -> _Leaf:
    """Raises ValueError for a state that the library would not carry from step to step."""
    name = ".".join(map(str, path))
    if not isinstance(value, nnx.Variable):
        raise ValueError(_ARRAY.format(name))
    if not issubclass(value.var_type, nnx.Param | nnx.RngState):
        remedy = "use a layer without, such as GroupNorm in place of BatchNorm"
        raise ValueError(f"{name} is of type {value.var_type.__name__}, a state that calls would change: {remedy}")
    return _Leaf(path, value.var_type, value.get_value())


def _check_static(graph: nnx.GraphDef) -> None:
    """Raises ValueError unless what is no state, such as sizes and functions, can be hashed."""
    for name, attribute in graph.attributes:
        if isinstance(getattr(attribute, "value", None), jax.Array):  # traced, which NNX does not take for a state
            raise ValueError(_ARRAY.format(name))
    try:
        hash(graph)
    except TypeError as error:
        raise ValueError(f"create makes a module with an attribute that is not hashable: {error}") from error
