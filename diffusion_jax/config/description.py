"""The description of a run that is stored in each of its checkpoints."""

from typing import Any

import jax

from diffusion_jax.version import __version__

__all__ = ["describe_run"]


def describe_run(
    config: dict[str, Any],
    data: str | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """Everything that `load` needs besides the weights, as JSON values; `data` is the data's fingerprint.

    >>> describe_run({}, None, (8, 8, 1), 2, ("cat", "dog"))["class_names"]
    ['cat', 'dog']
    """
    return {
        "config": config,
        "data": data,
        "image_shape": list(image_shape),
        "num_classes": num_classes,
        "class_names": list(class_names),
        "versions": {"diffusion_jax": __version__, "jax": jax.__version__},
    }
