"""Proves the samplers, schedules and guidance against closed forms.

    diffusion-jax verify                                    everything
    diffusion-jax verify --sampler "DDIM(eta=0.2)"          one sampler on every schedule
    diffusion-jax verify --sampler "my_pkg.my_module:Mine(strength=0.3)"
    diffusion-jax verify --schedule "Cosine(steps=500)"     one schedule with every sampler

The exit code is 0 if all cases pass, else 1.
"""

import time
from collections.abc import Callable
from typing import Any

import tqdm
from absl.flags import FlagValues

from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.devices import check_devices
from diffusion_jax.cli.terminal import one_line


def run(options: FlagValues) -> int:
    from diffusion_jax.config.text import sampler_from_text, schedule_from_text

    samplers = _named(options.sampler, sampler_from_text)
    schedules = _named(options.schedule, schedule_from_text)
    check_devices()
    from diffusion_jax import verify

    start = time.perf_counter()
    with tqdm.tqdm(bar_format="{elapsed} {desc}", leave=False, delay=1) as bar:
        rows = verify.run(
            samplers,
            schedules,
            lambda part: bar.set_description(one_line(f"{part}: done")),
            all_grids=options.all_grids,
        )
    if options.full:
        print("\n".join(f"{'pass' if row.passed else 'FAIL'}  {verify.format_row(row)}" for row in rows))
    print(verify.format_table(rows))
    print(f"{time.perf_counter() - start:.0f} s")
    return 0 if all(row.passed for row in rows) else 1


def _named(text: str | None, build: Callable[..., Any]) -> dict[str, Any] | None:
    """{name in the tables: component}; None if the flag is not set."""
    if text is None:
        return None
    component = build(text, allow_code=True)
    from diffusion_jax.sampling.samplers import Sampler
    from diffusion_jax.verify.cases import sampler_name

    is_ours = isinstance(component, Sampler) and ":" not in text
    return {sampler_name(component) if is_ours else text: component}


COMMAND = Command(
    name="diffusion-jax verify",
    text=str(__doc__),
    flags=(
        Flag("sampler", str, "Verify this sampler instead of all."),
        Flag("schedule", str, "Verify this schedule instead of all."),
        Flag("all_grids", bool, "Sample few steps on every grid, not on one per sampler and schedule.", False),
        Flag("full", bool, "Print every case.", False),
    ),
    run=run,
)
