"""`python train.py` is the command `diffusion-jax train`, from a checkout."""

import sys

from diffusion_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
