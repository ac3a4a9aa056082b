"""Directories of runs made by hand, with the files that training writes."""

import copy
import json

import numpy as np
from PIL import Image

from diffusion_jax.runtime.writers import MetricsWriter

CONFIG = {
    "data": {"name": "Digits"},
    "model": {"name": "UNet", "channels": [8], "num_classes": 10},
    "schedule": {"name": "Cosine"},
    "prediction": {"name": "V"},
    "loss": {"name": "DiffusionLoss"},
    "optimizer": {"name": "adamw", "lr_schedule": 0.002},
    "sampler": {"name": "DDIM", "steps": 20},
    "train": {"steps": 600, "batch_size": 64},
}
BINS = ["-inf_-8", "-8_-4", "-4_0", "0_4", "4_8", "8_inf"]


def config_with(**fields):
    """CONFIG with fields such as train_steps=60 set: the section, "_", the field."""
    config = copy.deepcopy(CONFIG)
    for name, value in fields.items():
        section, _, field = name.partition("_")
        config[section][field] = value
    return config


def make_run(directory, config=CONFIG, steps=(20, 40, 60, 80), evaluations=(40, 80), grids=(40, 80), scale=1.0):
    """A run with metrics at `steps`, evaluations and grids of samples. Returns its directory."""
    (directory / "samples").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"config": config, "data": "0123abcd"}))
    with MetricsWriter(directory) as writer:
        for step in steps:
            values = {"loss": scale * 10.0 / step, "learning_rate": 1e-5 * step, "grad_norm": 1.0 + step, "skipped": 0}
            writer.write(step, values)
            writer.write_speed(step, 100.0 + step)
            if step in evaluations:
                bins = {f"eval_loss/log_snr_{name}": scale * (i + 1.0) / step for i, name in enumerate(BINS)}
                writer.write(step, {"eval_loss": scale * 20.0 / step, **bins})
    for step in grids:
        draw_grid(directory, step)
    return directory


def draw_grid(directory, step):
    """A grid of samples, whose first pixel is the step modulo 256."""
    pixels = np.full((6, 8, 3), step % 256, np.uint8)
    Image.fromarray(pixels).save(directory / "samples" / f"step_{step:07d}.png")
