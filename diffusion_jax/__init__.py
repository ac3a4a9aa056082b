"""Image diffusion in JAX: the public names, each imported on first use. README.md gives a tour."""

from etils import epy

with epy.lazy_api_imports(globals()):
    from diffusion_jax import figures, interop, models, oracles, verify
    from diffusion_jax.config import shipped as configs
    from diffusion_jax.data import sources
    from diffusion_jax.process import forward, pixels, predictions, schedules, vlb
    from diffusion_jax.process.predictions import Denoised
    from diffusion_jax.pytrees import register_dataclass
    from diffusion_jax.run import Guidance, Network, Run, Sampling
    from diffusion_jax.runtime import images, processes
    from diffusion_jax.sampling import editing, grids, guidance, likelihood, samplers
    from diffusion_jax.sampling.denoiser import clipped, denoiser
    from diffusion_jax.sampling.loop import sample
    from diffusion_jax.sampling.thresholding import dynamic_threshold
    from diffusion_jax.training import losses
    from diffusion_jax.training.several import make_train_steps
    from diffusion_jax.training.state import TrainState
    from diffusion_jax.training.step import make_train_step
    from diffusion_jax.version import __version__
    from diffusion_jax.workdir import export, load, pretrained, pretrained_names, train

__all__ = [
    "Denoised",
    "Guidance",
    "Network",
    "Run",
    "Sampling",
    "TrainState",
    "__version__",
    "clipped",
    "configs",
    "denoiser",
    "dynamic_threshold",
    "editing",
    "export",
    "figures",
    "forward",
    "grids",
    "guidance",
    "images",
    "interop",
    "likelihood",
    "load",
    "losses",
    "make_train_step",
    "make_train_steps",
    "models",
    "oracles",
    "pixels",
    "predictions",
    "pretrained",
    "pretrained_names",
    "processes",
    "register_dataclass",
    "sample",
    "samplers",
    "schedules",
    "sources",
    "train",
    "verify",
    "vlb",
]


def __dir__() -> list[str]:
    return __all__
