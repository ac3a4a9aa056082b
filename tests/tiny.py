"""The smallest things that train: a config, and a network of three numbers."""

import dataclasses
import time as wait
from typing import ClassVar

import jax
import jax.numpy as jnp

import diffusion_jax as dj

UNET = {
    "name": "UNet",
    "channels": [8],
    "blocks": 1,
    "attention": [],
    "num_classes": 10,
    "groups": 4,
    "dropout": 0.1,
}


def config(model=UNET, **train) -> dict:
    """Class-conditional digits; `train` overrides fields of that section. AFFINE compiles in a second."""
    return {
        "data": {"name": "Digits"},
        "model": dict(model),
        "schedule": {"name": "Cosine", "steps": 100},
        "prediction": {"name": "V"},
        "loss": {"name": "DiffusionLoss", "label_drop": 0.1},
        "optimizer": {"name": "adamw", "lr_schedule": 1e-3, "clip_norm": 1.0},
        "sampler": {"name": "DDIM", "eta": 0.0, "steps": 4, "guidance": 1.5},
        "train": {
            "steps": 60,
            "batch_size": 16,
            "log_every": 5,
            "eval_every": 30,
            "sample_every": 0,
            "checkpoint_every": 10,
            **train,
        },
    }


AFFINE = {"name": "tiny:Affine"}


class Affine:
    """The network w x + u t + (class embedding): init and apply are all that a network needs."""

    num_classes = 10

    def __eq__(self, other):
        return type(self) is type(other)  # so that programs of an equal network are found again

    def __hash__(self):
        return hash(type(self))

    def init(self, key, x, time, labels):
        return {"w": jnp.float32(0.1), "u": jnp.float32(0.0), "classes": jnp.zeros(11)}

    def apply(self, params, x, time, labels=None, train=False, rngs=None):
        labels = jnp.full(time.shape, -1) if labels is None else labels
        shift = params["u"] * time + params["classes"][labels]
        return params["w"] * x + shift[:, None, None, None]


class TwoClasses(Affine):
    num_classes = 2


class ThreeClasses(Affine):
    num_classes = 3

    def init(self, key, x, time, labels):
        return super().init(key, x, time, labels) | {"classes": jnp.zeros(4)}


@dataclasses.dataclass(frozen=True)
class AnyClasses(Affine):
    """Affine, for as many classes as it is told."""

    num_classes: int = 0


class Nameless:
    """A network without the attribute num_classes."""


def not_an_optimizer(learning_rate, weight_decay=0.0):
    return learning_rate


def batch(size: int = 16, seed: int = 0) -> dict[str, jax.Array]:
    """Random images and labels, float32 [size, 4, 4, 1] in [-1, 1]."""
    image_key, label_key = jax.random.split(jax.random.key(seed))
    return {
        "image": jax.random.uniform(image_key, (size, 4, 4, 1), minval=-1.0),
        "label": jax.random.randint(label_key, (size,), 0, 10),
    }


def learning_loss(**kwargs) -> dj.losses.HybridLoss:
    """A loss with every option: a variance, the network's own estimates, times that learn."""
    schedule, times = dj.schedules.Cosine(4), dj.losses.LossSecondMomentTimes(history=2)
    settings = {"times": times, "self_condition": 0.5, "vlb_weight": 0.1} | kwargs
    return dj.losses.HybridLoss(schedule, dj.predictions.V(), **settings)


def loss(**kwargs) -> dj.losses.DiffusionLoss:
    return dj.losses.DiffusionLoss(dj.schedules.Cosine(100), dj.predictions.V(), **kwargs)


class Learned(Affine):
    """Affine in x and its own estimate of x0; the second half of the output, the variance, is one number."""

    learn_variance = True
    self_condition = True

    def init(self, key, x, time, labels):
        return super().init(key, x, time, labels) | {"guess": jnp.float32(0.2), "f": jnp.float32(0.3)}

    def apply(self, params, x, time, labels=None, train=False, rngs=None, x0_hat=None):
        seen = x if x0_hat is None else x + params["guess"] / params["w"] * x0_hat
        output = super().apply(params, seen, time, labels)
        return jnp.concatenate([output, jnp.full_like(x, params["f"])], axis=-1)


class Numbered(Affine):
    """The network of three numbers with its number of classes set by the config."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes


class _Failing:
    """Rows that one process cannot read, from the 500th on."""

    def __init__(self, rows, process: int):
        self.rows, self.process = rows, process

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        if jax.process_index() == self.process and i > 500:
            raise OSError("rows/500 cannot be read from this host")
        return self.rows[i]


@dataclasses.dataclass(frozen=True)
class FailsIn0(dj.sources.Digits):
    process: ClassVar[int] = 0

    def open(self):
        training, held_out = super().open()
        return dataclasses.replace(training, rows=_Failing(training.rows, self.process)), held_out


class FailsIn1(FailsIn0):
    process = 1


class SlowToCompile(Affine):
    """Affine, whose training step takes two minutes to trace, as a large network takes to compile."""

    def apply(self, params, x, time, labels=None, train=False, rngs=None):
        if train:
            print("compiling", flush=True)
            wait.sleep(120)
        return super().apply(params, x, time, labels)
