"""The sections of a config: the module that each takes its component from, or the dataclass that it is."""

import optax

from diffusion_jax import models
from diffusion_jax.config.components import Namespace
from diffusion_jax.data import sources
from diffusion_jax.process import predictions, schedules
from diffusion_jax.runtime.mesh import MeshShape
from diffusion_jax.sampling import grids, samplers
from diffusion_jax.training import losses
from diffusion_jax.training.plan import Plan

__all__ = ["COMPONENTS", "GRIDS", "SECTIONS", "SETTINGS"]

# Sections with a "name".
COMPONENTS = {
    "data": Namespace(sources, sources.Dataset),
    "model": Namespace(models),
    "schedule": Namespace(schedules, schedules.Schedule),
    "prediction": Namespace(predictions, predictions.Prediction),
    "loss": Namespace(losses, losses.Loss),
    "optimizer": Namespace(optax, below=(optax.contrib,)),
    "sampler": Namespace(samplers, samplers.Sampler),
}
# Sections without one.
SETTINGS = {"train": Plan, "mesh": MeshShape}
SECTIONS = (*COMPONENTS, *SETTINGS)
# The field "grid" of the section "sampler" is a component too.
GRIDS = Namespace(grids, grids.Grid)
