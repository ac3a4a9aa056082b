"""A run's directory: train into it, load from it.

config.json      the config and the fingerprint of the data
checkpoints/     the newest sound checkpoints; see runtime/checkpoint.py
metrics.jsonl    the record of the training
events/          the same for TensorBoard
samples/         a grid of images at each sample point; samples.png is the last
"""

from diffusion_jax.workdir.load import load
from diffusion_jax.workdir.session import train

__all__ = ["load", "train"]


def __dir__() -> list[str]:
    return __all__
