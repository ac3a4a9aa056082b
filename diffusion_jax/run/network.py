"""A network with what it was trained for, and what may be asked of it."""

import dataclasses
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.samplers import Sampler, SelfConditioned
from diffusion_jax.training.losses import NO_LABEL


@dataclasses.dataclass(frozen=True)
class Network:
    """What stays the same between two calls of the sampler; hashable, so that jit knows it again."""

    model: Any
    schedule: Schedule
    prediction: Prediction
    image_shape: tuple[int, int, int]
    num_classes: int
    unlabelled: bool = True  # it was also trained without labels: what guidance starts from

    @property
    def self_condition(self) -> bool:
        """Whether it is shown its own guess of the step before."""
        return getattr(self.model, "self_condition", False)

    def labels(self, n: int, labels: ArrayLike | None) -> np.ndarray:
        """int32 [n], NO_LABEL where none are given. Raises ValueError where it cannot take them."""
        if labels is None:
            if self.num_classes and not self.unlabelled:
                raise ValueError(
                    f"labels: this network was never trained without them; give {n}, one a picture"
                )
            return np.full(n, NO_LABEL, np.int32)
        rows = np.asarray(labels)
        if not self.num_classes:
            raise ValueError("labels: this network was trained without classes; leave them out")
        if rows.shape != (n,) or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"labels are {rows.dtype} {rows.shape}: need {n} integers, one a picture")
        wrong = rows[(rows < 0) | (rows >= self.num_classes)]
        if len(wrong):
            raise ValueError(f"labels contain {wrong[0]}: must be from 0 to {self.num_classes - 1}")
        return rows.astype(np.int32)

    def noise(self, n: int, noise: ArrayLike) -> np.ndarray:
        """`noise`, float32 [n, H, W, C]. Raises ValueError where it is of another shape or not finite."""
        given, shape = np.asarray(noise, np.float32), (n, *self.image_shape)
        if given.shape != shape:
            raise ValueError(f"noise has shape {given.shape}: need {shape}")
        if not np.isfinite(given).all():
            raise ValueError("noise is not finite: give standard normal numbers, as run.noise(key, n) does")
        return given

    def fitted(self, sampler: Sampler) -> Sampler:
        """`sampler`, given the network's own guesses where the network takes them.

        Raises ValueError where the sampler asks for what the network says, by `self_condition` and
        `learn_variance`, that it lacks. One that does not say is taken at the sampler's word.
        """
        inner = sampler.sampler if isinstance(sampler, SelfConditioned) else sampler
        name = type(inner).__name__
        if inner is not sampler and getattr(self.model, "self_condition", None) is False:
            raise ValueError(
                f"sampler = SelfConditioned: this network takes no guesses of its own; use {name}"
            )
        wants = getattr(inner, "variance", None)
        if wants == "learned" and getattr(self.model, "learn_variance", None) is False:
            raise ValueError(
                f'sampler = {name}(variance="learned"): this network learns no variance; use "small" or '
                '"large"'
            )
        return SelfConditioned(inner) if self.self_condition else sampler

    def check_weaker(self, weaker: "Network") -> None:
        """Raises ValueError where `weaker` cannot stand beside this network in autoguidance."""
        for name in ("image_shape", "num_classes", "schedule", "self_condition"):
            mine, theirs = getattr(self, name), getattr(weaker, name)
            if mine != theirs:
                raise ValueError(
                    f"weaker: its {name} is {theirs}, this run's is {mine}; use a run of the same"
                )
