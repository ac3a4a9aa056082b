"""`python -m diffusion_jax.edit` is the command `diffusion-jax edit`."""

import sys

from diffusion_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["edit", *sys.argv[1:]]))
