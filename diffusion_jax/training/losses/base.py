"""What the losses share: pictures at drawn noise levels, and the network's output for them."""

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
from diffusion_jax.training.losses.times import StratifiedTimes, Times
from diffusion_jax.validation import Checked, instance, number


class Examples(NamedTuple):
    """Pictures at their drawn noise levels: all randomness of a training step but dropout."""

    x0: jax.Array  # [B, H, W, C] in [-1, 1]
    labels: jax.Array | None  # [B], NO_LABEL where dropped
    t: jax.Array  # [B]
    eps: jax.Array  # [B, H, W, C]
    guessed: jax.Array | None = None  # bool [B], whether the network is shown its own guess of x0
    weight: jax.Array | None = None  # [B], of the loss in the mean over the batch; None: all 1


@dataclasses.dataclass(frozen=True)
class Loss(Checked):
    """Base of the losses: draw all randomness for a batch, then the loss of each example.

    `schedule` and `prediction` are what the network learns.
    """

    schedule: Schedule = dataclasses.field(metadata=instance(Schedule, "Cosine()"))
    prediction: Prediction = dataclasses.field(metadata=instance(Prediction, "V()"))

    def init(self) -> Any:
        """What the loss remembers before the first step: a pytree, which the training state carries."""
        return ()

    def draw(self, key: jax.Array, batch: dict[str, jax.Array], memory: Any = ()) -> Examples:
        """The examples of a batch."""
        raise NotImplementedError

    def per_example(self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any) -> jax.Array:
        """The loss of each example, [B]; `kwargs` go to apply(params, x, time, labels, **kwargs)."""
        raise NotImplementedError

    def update(self, memory: Any, examples: Examples, losses: jax.Array) -> Any:
        """What it remembers after a batch whose examples had `losses`, [B]."""
        return memory

    def evaluated(self) -> "Loss":
        """The loss that held-out pictures are judged by."""
        return self

    def parts(self, apply: Callable[..., jax.Array], params: Any, examples: Examples) -> dict[str, jax.Array]:
        """What an evaluation tells of each example, by name, [B] each; "loss" is among them."""
        return {"loss": self.per_example(apply, params, examples)}


@dataclasses.dataclass(frozen=True)
class Noised(Loss, abc.ABC):
    """A loss at one drawn time for each example.

    Attributes:
      schedule, prediction: refused where they don't go together.
      times: how training times are drawn; a discrete schedule rounds them up to k/T.
      label_drop: probability that an example is trained without its label (Ho and Salimans 2022,
        Alg. 1), which classifier-free guidance needs.
      self_condition: probability that the network is shown its own guess of x0, from a first pass without
        one, through which no gradient flows; theirs is 0.5 (Chen et al. 2023, Alg. 1, where the draw
        is one for the batch). The first pass is as in sampling, without dropout. For networks with
        `self_condition`; a training step then costs half as much again.
    """

    # Whether it is for networks with twice the channels, the second half of which is their variance.
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
        """Examples from a batch of "image", uint8 or float32 in [-1, 1], and, if any, "label" [B]."""
        x0 = to_float(batch["image"])
        guess_key = jax.random.fold_in(key, 3)  # not 0 to 2: those are the three of the next line
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        t, weight = self.times.draw_weighted(time_key, self.schedule, len(x0), memory)
        labels = batch.get("label")
        if labels is not None:
            dropped = jax.random.bernoulli(drop_key, self.label_drop, labels.shape)
            labels = jnp.where(dropped, NO_LABEL, labels)
        guessed = None
        if self.self_condition:
            guessed = jax.random.bernoulli(guess_key, self.self_condition, (len(x0),))
        eps = jax.random.normal(noise_key, x0.shape)
        return Examples(x0, labels, self.schedule.round(t), eps, guessed, weight)

    def update(self, memory: Any, examples: Examples, losses: jax.Array) -> Any:
        return self.times.update(memory, self.schedule, examples.t, losses)

    def evaluated(self) -> "Noised":
        """With every label, times as even as they can be, and a guess, where there are any, for each."""
        guess = 1.0 if self.self_condition else 0.0
        return dataclasses.replace(self, label_drop=0.0, times=StratifiedTimes(), self_condition=guess)

    @abc.abstractmethod
    def per_example(self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any) -> jax.Array:
        """The loss of each example, [B]."""

    def output(
        self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any
    ) -> tuple[jax.Array, Any]:
        """What the network makes of the examples: its prediction, and its fraction of the learned range.

        The fraction, shaped like it, is None for a network that learns no variance. Raises ValueError where
        it learns one and the loss does not train it, or the reverse, and for an output of another shape.
        """
        x_t, alpha, sigma = self.noised(examples)
        x = self.prediction.network_input(x_t, alpha, sigma)
        time = self.prediction.network_time(self.schedule, examples.t)
        if examples.guessed is not None:
            first = apply(params, x, time, examples.labels, x0_hat=jnp.zeros_like(x_t))
            x0_hat = self.prediction.denoised(self._split(first, x_t)[0], x_t, alpha, sigma).x0
            x0_hat = jnp.where(forward.expand(examples.guessed, x_t), x0_hat, 0.0)
            kwargs["x0_hat"] = jax.lax.stop_gradient(x0_hat)
        return self._split(apply(params, x, time, examples.labels, **kwargs), x_t)

    def _split(self, output: jax.Array, x_t: jax.Array) -> tuple[jax.Array, Any]:
        prediction, fraction = split_variance(output, x_t.shape)
        if (fraction is not None) != self.learns_variance:
            raise ValueError(f"the network makes {output.shape} of pictures {x_t.shape}: {_mismatch(type(self))}")
        return prediction, fraction

    def noised(self, examples: Examples) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x_t, and alpha and sigma shaped to multiply it."""
        x0 = examples.x0
        alpha = forward.expand(self.schedule.alpha(examples.t), x0)
        sigma = forward.expand(self.schedule.sigma(examples.t), x0)
        return alpha * x0 + sigma * examples.eps, alpha, sigma


def _mismatch(loss: type[Noised]) -> str:
    if loss.learns_variance:
        return f"{loss.__name__} needs twice the channels; use a network with learn_variance=True"
    return f"{loss.__name__} does not train a variance; use HybridLoss, or learn_variance=False"
