"""`python sample.py` is the command `diffusion-jax sample`, from a checkout."""

import sys

from diffusion_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
