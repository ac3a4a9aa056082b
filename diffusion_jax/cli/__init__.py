"""The command `diffusion-jax`: one module per sub-command.

Only ml_collections and absl are imported until a command starts to work, so that help and flag errors are immediate.
"""
