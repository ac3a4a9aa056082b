"""A network with its schedule and prediction, and checks of the inputs that it accepts."""

import dataclasses
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.samplers import Sampler, SelfConditioned


@dataclasses.dataclass(frozen=True)
class Network:
    """The static part of sampling; hashable, so that jit finds its program again."""

    model: Any
    schedule: Schedule
    prediction: Prediction
    image_shape: tuple[int, int, int]
    num_classes: int
    unlabelled: bool = True  # whether it was also trained without labels, as guidance needs

    @property
    def self_condition(self) -> bool:
        """Whether it is conditioned on its own estimate of the previous step."""
        return getattr(self.model, "self_condition", False)

    def label_rows(self, n: int, labels: ArrayLike | None) -> np.ndarray:
        """Labels as int32 [n], NO_LABEL if there are none. Raises ValueError if the network cannot take them."""
        if labels is None:
            if self.num_classes and not self.unlabelled:
                raise ValueError(f"labels: this network was never trained without them; give {n}, one per image")
            return np.full(n, NO_LABEL, np.int32)
        rows = np.asarray(labels)
        if not self.num_classes:
            raise ValueError("labels: this network was trained without classes; leave them out")
        if rows.shape != (n,) or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"labels must be {n} integers (one per image), got {rows.dtype} of shape {rows.shape}")
        self.check_labels(rows)
        return rows.astype(np.int32)

    def check_labels(self, labels: np.ndarray) -> None:
        """Raises ValueError for a label that is not a class."""
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if wrong.size:
            raise ValueError(f"labels contain {wrong.ravel()[0]}: must be from 0 to {self.num_classes - 1}")

    def noise_rows(self, n: int, noise: ArrayLike) -> np.ndarray:
        """Noise as float32 [n, H, W, C]. Raises ValueError if it has another shape or is not finite."""
        rows, shape = np.asarray(noise, np.float32), (n, *self.image_shape)
        if rows.shape != shape:
            raise ValueError(f"noise has shape {rows.shape}: must be {shape}")
        if not np.isfinite(rows).all():
            raise ValueError("noise is not finite: must be standard normal, as run.noise(key, n) is")
        return rows

    def adapt_sampler(self, sampler: Sampler) -> Sampler:
        """`sampler`, wrapped in SelfConditioned if the network is conditioned on its own estimates.

        Raises ValueError if the sampler needs an output that the network, by its `self_condition` and
        `learn_variance`, does not have. A network without these attributes is assumed to have it.
        """
        inner = sampler.sampler if isinstance(sampler, SelfConditioned) else sampler
        name = type(inner).__name__
        if inner is not sampler and getattr(self.model, "self_condition", None) is False:
            raise ValueError(f"sampler = SelfConditioned: this network is not self-conditioned; use {name}")
        variance = getattr(inner, "variance", None)
        if variance == "learned" and getattr(self.model, "learn_variance", None) is False:
            raise ValueError(
                f'sampler = {name}(variance="learned"): this network does not learn a variance; use "small" or "large"'
            )
        return SelfConditioned(inner) if self.self_condition else sampler

    def check_weaker(self, weaker: "Network", n: int, labelled: bool) -> None:
        """Raises ValueError if `weaker` cannot guide this network, n images with or without labels."""
        for name in ("image_shape", "num_classes", "schedule", "self_condition"):
            mine, theirs = getattr(self, name), getattr(weaker, name)
            if mine != theirs:
                raise ValueError(f"weaker: its {name} is {theirs}, this run's is {mine}; both must be the same")
        if not labelled and weaker.num_classes and not weaker.unlabelled:
            raise ValueError(f"weaker: was never trained without labels; give {n}, one per image")
