"""The devices that a command runs on."""

import os


def check_devices() -> None:
    """Starts JAX. Raises OSError if it has no device, such as with JAX_PLATFORMS=cuda on a machine without a GPU."""
    import jax

    from diffusion_jax.runtime.errors import first_line

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an AssertionError without text where CUDA is not installed
        reason = f" ({first_line(error)})" if str(error) else ""
        raise OSError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: JAX finds no such device{reason}; install JAX for "
            "this device, or set JAX_PLATFORMS=cpu"
        ) from error
