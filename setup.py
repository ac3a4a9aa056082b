"""Packages that setup.cfg cannot name: configs/ is installed as diffusion_jax.configs. The rest is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["diffusion_jax*"]), "diffusion_jax.configs"],
    package_dir={"diffusion_jax.configs": "configs"},
)
