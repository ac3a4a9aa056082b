"""A run's directory: train into it, load from it.

config.json      the config and the fingerprint of the data
checkpoints/     the newest checkpoints; see runtime/checkpoint.py
metrics.jsonl    the metrics of the training, one JSON line each
events/          the same for TensorBoard
samples/         a grid of images each time that samples are due; samples.png is the latest. Images that have not
                 1 or 3 channels are arrays, .npz
"""

from diffusion_jax.workdir.load import export, load, pretrained, pretrained_names
from diffusion_jax.workdir.training import train

__all__ = ["export", "load", "pretrained", "pretrained_names", "train"]


def __dir__() -> list[str]:
    return __all__
