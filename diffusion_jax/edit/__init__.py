"""Editing images with a trained run: the tasks of `diffusion-jax edit`."""
