"""A network with its schedule and prediction, and the inputs that it accepts."""

import dataclasses
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.samplers import Sampler, SelfConditioned
from diffusion_jax.validation import check_integers, check_shape

__all__ = ["Network"]


@dataclasses.dataclass(frozen=True)
class Network:
    """The static part of sampling; hashable, so that jit does not recompile for an equal network.

    Attributes:
      model: any hashable object with apply(params, x, time, labels).
      schedule, prediction: what it was trained with.
      image_shape: (H, W, C).
      num_classes: number of classes; 0 if it takes no labels.
      unlabelled: whether it was also trained without labels, as classifier-free guidance needs.

    >>> network = Network(dj.models.UNet(), dj.schedules.Cosine(), dj.predictions.V(), (32, 32, 3), num_classes=0)
    >>> network.label_rows(2, None)
    array([-1, -1], dtype=int32)
    """

    model: Any
    schedule: Schedule
    prediction: Prediction
    image_shape: tuple[int, int, int]
    num_classes: int
    unlabelled: bool = True

    @property
    def self_condition(self) -> bool:
        """Whether it is conditioned on its own estimate of the previous step."""
        return getattr(self.model, "self_condition", False)

    def label_rows(self, n: int, labels: ArrayLike | None) -> np.ndarray:
        """Labels as int32 [n], NO_LABEL if they are None. Raises ValueError if the network cannot take them."""
        if labels is None:
            if self.num_classes and not self.unlabelled:
                raise ValueError(f"labels: this network was never trained without them; give {n}, one per image")
            return np.full(n, NO_LABEL, np.int32)
        rows = np.asarray(labels)
        is_row = rows.shape == (n,) and np.issubdtype(rows.dtype, np.integer)
        if self.num_classes and not is_row:
            raise ValueError(f"labels must be {n} integers (one per image), got {rows.dtype} of shape {rows.shape}")
        self.check_labels(rows)
        return rows.astype(np.int32)

    def check_labels(self, labels: np.ndarray) -> None:
        """Raises ValueError for a label that is not a class."""
        if not self.num_classes:
            raise ValueError("labels: this network was trained without classes; leave them out")
        check_integers("labels", labels, 0, self.num_classes - 1)

    def noise_rows(self, n: int, noise: ArrayLike | None) -> np.ndarray | None:
        """Noise as float32 [n, H, W, C]. Raises ValueError if it has another shape or is not finite."""
        if noise is None:
            return None
        rows, shape = np.asarray(noise, np.float32), (n, *self.image_shape)
        check_shape("noise", rows, shape)
        if not np.isfinite(rows).all():
            raise ValueError("noise is not finite: must be standard normal, such as run.noise(key, n)")
        return rows

    def adapt_sampler(self, sampler: Sampler) -> Sampler:
        """`sampler`, wrapped in SelfConditioned if the network is conditioned on its own estimates.

        Raises ValueError if the sampler needs an output that the network, by its `self_condition` and
        `learn_variance`, does not have. A network without these attributes is assumed to have it.
        """
        inner = sampler.sampler if isinstance(sampler, SelfConditioned) else sampler
        name = type(inner).__name__
        needs_variance = getattr(inner, "variance", None) == "learned"
        if inner is not sampler and getattr(self.model, "self_condition", None) is False:
            raise ValueError(f"sampler = SelfConditioned: this network is not self-conditioned; use {name}")
        if needs_variance and getattr(self.model, "learn_variance", None) is False:
            raise ValueError(f'sampler = {name}(variance="learned"): this network does not learn it; use "small"')
        return SelfConditioned(inner) if self.self_condition else sampler

    def check_weaker(self, weaker: "Network", n: int, labelled: bool) -> None:
        """Raises ValueError if `weaker` cannot guide this network, n images with or without labels."""
        for name in ("image_shape", "num_classes", "schedule", "self_condition"):
            own, other = getattr(self, name), getattr(weaker, name)
            if own != other:
                raise ValueError(f"weaker: its {name} is {other}, this run's is {own}; both must be the same")
        if weaker.num_classes and not weaker.unlabelled and not labelled:
            raise ValueError(f"weaker: was never trained without labels; give {n}, one per image")

    def guidance_scale(
        self, n: int, scale: ArrayLike, *, labelled: bool, weaker: bool, explicit: bool
    ) -> np.ndarray | None:
        """The scale of guidance for each image, float32 [n]; None if no image is guided.

        Guidance needs labels, or a weaker run to lead away from. Without either, an `explicit` scale is refused and
        a default one has no effect. Raises ValueError also for another shape, and if the network was never trained
        without labels.
        """
        scale = np.asarray(scale, np.float64)
        check_shape("guidance", scale, (), (n,))
        acting = scale[scale != 1]
        if not acting.size or not (labelled or weaker or explicit):
            return None
        given = f"guidance = {acting[0]}"
        if not self.num_classes and not weaker:
            raise ValueError(f"{given}: this network has no classes; use 1.0, or a weaker run to lead away from")
        if not labelled and not weaker:
            raise ValueError(f"{given}: needs labels to guide towards; give labels, or guidance 1")
        if not weaker and not self.unlabelled:
            raise ValueError(f"{given}: this network was never trained without labels; use 1.0, or set label_drop")
        return np.broadcast_to(scale.astype(np.float32), (n,))
