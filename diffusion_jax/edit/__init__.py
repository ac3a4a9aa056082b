"""Editing pictures with a trained run: the tasks of `python -m diffusion_jax.edit`."""
