"""Whether the data, the model, the loss and the sampler of a config fit together.

Each component checks its own fields. The rules here are about pairs of them: a table of a condition that must not
hold and the message if it does.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from diffusion_jax.config.components import ConfigError
from diffusion_jax.run import Sampling
from diffusion_jax.training.losses import DenoisingLoss, Loss

__all__ = ["Parts", "check_compatibility"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The components that have to fit together, and what the data are."""

    model: Any
    loss: Loss
    sampling: Sampling
    image_shape: tuple[int, int, int]
    num_classes: int
    largest: float  # magnitude of the images

    @property
    def model_name(self) -> str:
        return type(self.model).__name__

    @property
    def scale(self) -> Any:
        return self.sampling.guidance.scale

    @property
    def trains_unlabelled(self) -> bool:
        return getattr(self.loss, "label_drop", 1.0) > 0

    @property
    def trains_variance(self) -> bool | None:
        """None for a loss of the user's own, which is not asked."""
        return self.loss.learns_variance if isinstance(self.loss, DenoisingLoss) else None

    @property
    def self_condition(self) -> float:
        return self.loss.self_condition if isinstance(self.loss, DenoisingLoss) else 0.0

    @property
    def trains_estimates(self) -> bool | None:
        """Whether training conditions the network on its own estimates of x0; None as above."""
        return self.self_condition > 0 if isinstance(self.loss, DenoisingLoss) else None

    def contradicts(self, attribute: str, trained: bool | None) -> bool:
        """Whether the model says otherwise than its loss; one that does not say is assumed to fit."""
        return trained is not None and getattr(self.model, attribute, trained) != trained


_CLIPPED = 1.001  # rounding to float32 may leave [-1, 1]

Rule = tuple[Callable[[Parts], bool], Callable[[Parts], str]]

_RULES: tuple[Rule, ...] = (
    (
        lambda p: not hasattr(p.model, "num_classes"),
        lambda p: f"model: {p.model_name} has no attribute num_classes; set it to the number of classes, or to 0",
    ),
    (
        lambda p: p.sampling.clip and p.largest > _CLIPPED,
        lambda p: (
            f"sampler.clip = True: the images reach {p.largest:g}, and sampling would clip them to [-1, 1]; set it to "
            "False, or scale the images"
        ),
    ),
    (
        lambda p: p.model.num_classes not in (0, p.num_classes),
        lambda p: (
            f"model.num_classes = {p.model.num_classes}: the data have {p.num_classes}; use that, or 0 for a network "
            "without classes"
        ),
    ),
    (
        lambda p: p.contradicts("learn_variance", p.trains_variance),
        lambda p: (
            f"model.learn_variance = {not p.trains_variance}: {type(p.loss).__name__} "
            + (
                "trains a variance; set it to True"
                if p.trains_variance
                else "does not train a variance; use HybridLoss, or set it to False"
            )
        ),
    ),
    (  # otherwise training would condition the network on its estimates, and sampling would not
        lambda p: bool(p.trains_estimates) and not hasattr(p.model, "self_condition"),
        lambda p: (
            f"model: {p.model_name} has no attribute self_condition; set it to True, so that sampling passes x0_hat "
            "too, or set config.loss.self_condition to 0"
        ),
    ),
    (
        lambda p: p.contradicts("self_condition", p.trains_estimates),
        lambda p: (
            f"model.self_condition = {not p.trains_estimates}: config.loss.self_condition is "
            f"{p.self_condition:g}; " + ("set it to True" if p.trains_estimates else "set that to 0.5")
        ),
    ),
    (
        lambda p: p.scale != 1.0 and not p.model.num_classes,
        lambda p: f"sampler.guidance = {p.scale}: the model has no classes; use 1.0",
    ),
    (
        lambda p: p.scale != 1.0 and not p.trains_unlabelled,
        lambda p: (
            f"sampler.guidance = {p.scale}: needs loss.label_drop above 0, so that the network is also trained "
            "without labels; or use 1.0"
        ),
    ),
)


def check_compatibility(parts: Parts) -> None:
    """Raises ConfigError, with the first rule that is broken."""
    for broken, message in _RULES:
        if broken(parts):
            raise ConfigError(f"config.{message(parts)}")
