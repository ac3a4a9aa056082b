"""The page of `diffusion-jax demo`: a run to try out in a browser."""
