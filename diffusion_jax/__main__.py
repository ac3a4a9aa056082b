"""`python -m diffusion_jax` is the command `diffusion-jax`."""

import sys

from diffusion_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
