"""A run's directory: train into it, load from it.

config.json      the config and the fingerprint of the data
checkpoints/     the newest checkpoints; see runtime/checkpoint.py
metrics.jsonl    the metrics of the training, one JSON line each
events/          the same for TensorBoard
samples/         a grid of images each time that samples are due; samples.png is the latest
"""

from diffusion_jax.workdir.load import load
from diffusion_jax.workdir.training import train

__all__ = ["load", "train"]


def __dir__() -> list[str]:
    return __all__
