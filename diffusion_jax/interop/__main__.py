"""`python -m diffusion_jax.interop` is the command `diffusion-jax import`."""

import sys

from diffusion_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["import", *sys.argv[1:]]))
