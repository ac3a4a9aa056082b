"""`python -m diffusion_jax.verify` is the command `diffusion-jax verify`."""

import sys

from diffusion_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
