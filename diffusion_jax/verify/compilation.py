"""Less compilation: nearly all the time of the verification goes there."""

import copy
from functools import partial

import jax

from diffusion_jax.process.schedules import Schedule

# The older way to generate loops compiles in half the time. Newer compilers have only one way.
_LOOPS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}

# Optimized programs are not worth the time they take to compile: none for programs that run for less than a second, a
# little for those that run for seconds. Both must be the outermost jit.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, **_LOOPS})
slow_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


def compile_functions(schedule: Schedule) -> Schedule:
    """A copy of `schedule` with the same answers, whose functions are compiled.

    Outside of jit a call then compiles one program instead of one per operation; inside, a function that many
    samplers call is traced once.
    """
    compiled = copy.copy(schedule)
    for name in ("alpha", "sigma", "log_snr", "time", "round", "scales"):
        object.__setattr__(compiled, name, jax.jit(getattr(schedule, name)))
    return compiled
