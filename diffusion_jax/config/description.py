"""What a checkpoint says of itself."""

from typing import Any

import jax

from diffusion_jax.version import __version__


def describe_run(
    config: dict[str, Any],
    data: str | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """What a checkpoint says of itself: all that `load` needs but the weights."""
    return {
        "config": config,
        "data": data,
        "image_shape": list(image_shape),
        "num_classes": num_classes,
        "class_names": list(class_names),
        "versions": {"diffusion_jax": __version__, "jax": jax.__version__},
    }
