"""The user's cache directory, and the compiled programs in it, which the next process does not compile again."""

import hashlib
import logging
import os
import platform
import stat
from collections.abc import MutableMapping
from pathlib import Path

from diffusion_jax.runtime.errors import first_line

__all__ = ["keep_programs", "user_cache"]

log = logging.getLogger(__name__)

_DIRECTORY, _ENABLE = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
_SETTINGS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**31),  # bytes; the programs that were not used for longest are removed
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
}


def user_cache() -> str:
    """$XDG_CACHE_HOME if it is an absolute path, otherwise ~/.cache, not expanded."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return home if os.path.isabs(home) else "~/.cache"


def keep_programs(environment: MutableMapping[str, str] = os.environ, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Makes JAX keep compiled programs in $XDG_CACHE_HOME/diffusion_jax/programs, by default below ~/.cache.

    To be called before JAX is imported. What the environment already says about JAX's cache is left as it is:
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. Programs are run as they are found, so that a directory in which
    others can write is not used, with a warning; and those for a CPU are kept apart by its instructions.
    """
    if _DIRECTORY in environment or _ENABLE in environment:
        return
    try:
        directory = Path(user_cache()).expanduser() / "diffusion_jax" / "programs" / _name_cpu(cpuinfo)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(directory)
    except (OSError, RuntimeError) as error:
        log.warning("compiled programs are not kept (%s); %s=false turns this off", first_line(error), _ENABLE)
        return
    environment[_DIRECTORY] = str(directory)
    for name, value in _SETTINGS.items():
        environment.setdefault(name, value)


def _check_private(directory: Path) -> None:
    """Raises OSError unless this user alone can write in the directory and in the one that holds it."""
    for place in (directory, directory.parent):
        found = place.stat()
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{place} can be written by others; use chmod 700 {place}")


def _name_cpu(cpuinfo: Path) -> str:
    """A name for the instructions of this CPU: a home directory may be shared by machines with others."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not on Linux
        lines = [platform.processor()]
    instructions = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return hashlib.sha256(f"{platform.machine()} {instructions}".encode()).hexdigest()[:16]
