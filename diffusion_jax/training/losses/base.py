"""The parts that all losses share: images at random noise levels, and the network's prediction for them."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.process.pixels import NO_LABEL, to_float
from diffusion_jax.process.predictions import Prediction, split_variance
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.training.batch import check_batch
from diffusion_jax.training.losses.times import StratifiedTimes, Times
from diffusion_jax.validation import Checked, instance, number

__all__ = ["DenoisingLoss", "Examples", "Loss"]


class Examples(NamedTuple):
    """Images and their noise levels: all randomness of a training step except dropout.

    >>> x0 = jnp.zeros((2, 8, 8, 1))
    >>> Examples(x0, labels=None, t=jnp.array([0.1, 0.9]), eps=jnp.ones_like(x0)).weight is None
    True
    """

    x0: jax.Array  # [B, H, W, C] in [-1, 1]
    labels: jax.Array | None  # [B], NO_LABEL where dropped
    t: jax.Array  # [B]
    eps: jax.Array  # [B, H, W, C]
    self_conditioned: jax.Array | None = None  # bool [B], whether the network receives its own estimate of x0
    weight: jax.Array | None = None  # [B], of the loss in the mean over the batch; None: all 1


@dataclasses.dataclass(frozen=True)
class Loss(Checked):
    """Base of the losses: draws all randomness for a batch, then computes the loss of each example.

    Attributes:
      schedule, prediction: the noise schedule and what the network predicts.

    To add a loss, subclass `Loss` and define `draw` and `per_example`.

    >>> Loss(dj.schedules.Cosine(), dj.predictions.V()).init()
    ()
    """

    schedule: Schedule = dataclasses.field(metadata=instance(Schedule, "Cosine()"))
    prediction: Prediction = dataclasses.field(metadata=instance(Prediction, "V()"))

    def init(self) -> Any:
        """The memory before the first step: a pytree that the training state carries."""
        return ()

    def draw(self, key: jax.Array, batch: dict[str, jax.Array], memory: Any = ()) -> Examples:
        """The examples of a batch."""
        raise NotImplementedError

    def per_example(self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any) -> jax.Array:
        """The loss of each example, [B]; `kwargs` go to apply(params, x, time, labels, **kwargs)."""
        raise NotImplementedError

    def update(self, memory: Any, examples: Examples, losses: jax.Array) -> Any:
        """The memory after a batch whose examples had `losses`, [B]."""
        return memory

    def for_evaluation(self) -> "Loss":
        """The loss that held-out images are evaluated with."""
        return self

    def parts(self, apply: Callable[..., jax.Array], params: Any, examples: Examples) -> dict[str, jax.Array]:
        """The values that an evaluation reports, by name, [B] each; "loss" is one of them."""
        return {"loss": self.per_example(apply, params, examples)}


@dataclasses.dataclass(frozen=True)
class DenoisingLoss(Loss, abc.ABC):
    """Base of the losses at one random noise level per example.

    Attributes:
      schedule, prediction: the noise schedule and what the network predicts; they must fit together.
      times: distribution of the training times; for a discrete schedule they are rounded up to k/T.
      label_drop: probability that an example is trained without its label (Ho and Salimans 2022, Alg. 1), which
        classifier-free guidance needs.
      self_condition: probability that the network receives its own estimate of x0, from a first pass without one;
        no gradient flows through it. The paper uses 0.5 (Chen et al. 2023, Alg. 1, with one draw for the whole
        batch). The first pass is the same as in sampling, without dropout. Only for networks with
        `self_condition`; it makes a training step 1.5 times as expensive.

    >>> dj.losses.DiffusionLoss(dj.schedules.Cosine(), dj.predictions.Eps(), label_drop=0.2).label_drop
    0.2
    """

    # Whether the network must have twice the channels, the second half being the variance.
    learns_variance: ClassVar[bool] = False

    times: Times = dataclasses.field(
        default=StratifiedTimes(), kw_only=True, metadata=instance(Times, "StratifiedTimes()")
    )
    label_drop: float = dataclasses.field(default=0.1, kw_only=True, metadata=number("[0, 1]"))
    self_condition: float = dataclasses.field(default=0.0, kw_only=True, metadata=number("[0, 1]"))

    def __post_init__(self):
        super().__post_init__()
        self.prediction.check(self.schedule)
        self.times.check(self.schedule)

    def init(self) -> Any:
        return self.times.init(self.schedule)

    def draw(self, key: jax.Array, batch: dict[str, jax.Array], memory: Any = ()) -> Examples:
        """Examples from a batch of "image", uint8 or float32 in [-1, 1], and optionally "label" [B].

        Raises ValueError for a batch with other keys, types or shapes.
        """
        check_batch(batch)
        x0 = to_float(batch["image"])
        self_key = jax.random.fold_in(key, 3)  # 0 to 2 would be the three keys of the next line
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        t, weight = self.times.draw_weighted(time_key, self.schedule, len(x0), memory)
        labels = batch.get("label")
        if labels is not None:
            dropped = jax.random.bernoulli(drop_key, self.label_drop, labels.shape)
            labels = jnp.where(dropped, NO_LABEL, labels)
        self_conditioned = None
        if self.self_condition:
            self_conditioned = jax.random.bernoulli(self_key, self.self_condition, (len(x0),))
        eps = jax.random.normal(noise_key, x0.shape)
        return Examples(x0, labels, self.schedule.round(t), eps, self_conditioned, weight)

    def update(self, memory: Any, examples: Examples, losses: jax.Array) -> Any:
        return self.times.update(memory, self.schedule, examples.t, losses)

    def for_evaluation(self) -> "DenoisingLoss":
        """The same loss with every label, stratified times, and self-conditioning, if any, for every example."""
        rate = 1.0 if self.self_condition else 0.0
        return dataclasses.replace(self, label_drop=0.0, times=StratifiedTimes(), self_condition=rate)

    @abc.abstractmethod
    def per_example(self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any) -> jax.Array:
        """The loss of each example, [B]."""

    def predict(
        self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any
    ) -> tuple[jax.Array, Any]:
        """The network's prediction for the examples, and its fraction of the learned variance range.

        The fraction has the shape of the prediction; it is None if the network does not learn a variance. Raises
        ValueError if the network learns a variance that the loss does not train, or the reverse, and for an
        output of another shape.
        """
        x_t, alpha, sigma = self.diffuse(examples)
        x = self.prediction.network_input(x_t, alpha, sigma)
        time = self.prediction.network_time(self.schedule, examples.t)
        if examples.self_conditioned is not None:
            first = apply(params, x, time, examples.labels, x0_hat=jnp.zeros_like(x_t))
            x0_hat = self.prediction.denoised(self._split_output(first, x_t)[0], x_t, alpha, sigma).x0
            x0_hat = jnp.where(forward.expand(examples.self_conditioned, x_t), x0_hat, 0.0)
            kwargs["x0_hat"] = jax.lax.stop_gradient(x0_hat)
        return self._split_output(apply(params, x, time, examples.labels, **kwargs), x_t)

    def _split_output(self, output: jax.Array, x_t: jax.Array) -> tuple[jax.Array, Any]:
        prediction, fraction = split_variance(output, x_t.shape)
        if (fraction is not None) != self.learns_variance:
            raise ValueError(f"the network maps images {x_t.shape} to {output.shape}: {self._describe_output()}")
        return prediction, fraction

    def _describe_output(self) -> str:
        """The output that the loss needs, for error messages."""
        if self.learns_variance:
            return f"{type(self).__name__} needs twice the channels; use a network with learn_variance=True"
        return f"{type(self).__name__} does not train a variance; use HybridLoss, or learn_variance=False"

    def diffuse(self, examples: Examples) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x_t = alpha x0 + sigma eps, and alpha and sigma shaped to multiply it."""
        x0 = examples.x0
        alpha = forward.expand(self.schedule.alpha(examples.t), x0)
        sigma = forward.expand(self.schedule.sigma(examples.t), x0)
        return alpha * x0 + sigma * examples.eps, alpha, sigma
