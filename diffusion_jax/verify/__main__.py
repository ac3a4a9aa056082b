"""Proves the library, or a part of your own: python -m diffusion_jax.verify [--sampler my_pkg.mod:Mine]

(no flag)   every schedule x prediction x sampler x grid against closed forms, and the rest of the promises
--sampler   your own subclass of Sampler, or one of ours with other arguments, on every schedule:
            "my_pkg.mod:Mine(strength=0.3)", "DDIM(eta=0.2)"
--schedule  your own subclass of Schedule under every sampler: "my_pkg.mod:Mine", "Cosine(steps=500)"
--full      every case by itself
"""

import sys
import time

import tqdm
from absl import flags

from diffusion_jax import verify
from diffusion_jax.commands import no_more
from diffusion_jax.config.text import sampler_from_text, schedule_from_text
from diffusion_jax.sampling.samplers import Sampler


def main(arguments: list[str]) -> None:
    options = flags.FlagValues()
    flags.DEFINE_string("sampler", None, "A sampler to verify, in place of all.", flag_values=options)
    flags.DEFINE_string("schedule", None, "A schedule to verify, in place of all.", flag_values=options)
    flags.DEFINE_bool("full", False, "Every case by itself.", flag_values=options)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=options)
    try:
        rest = options(arguments)[1:]
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return
        no_more(rest)
        samplers = chosen(options.sampler, sampler_from_text)
        schedules = chosen(options.schedule, schedule_from_text)
        rows = prove(samplers, schedules, options.full)
    except (flags.Error, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    sys.exit(0 if all(row.passed for row in rows) else 1)


def chosen(text, build):
    """What a flag names, by its name in the tables; None where it is not given."""
    if text is None:
        return None
    found = build(text, allow_code=True)
    ours = isinstance(found, Sampler) and ":" not in text
    return {verify.cases.name_of(found) if ours else text: found}


def prove(samplers, schedules, full: bool) -> list[verify.Row]:
    start = time.perf_counter()
    with tqdm.tqdm(bar_format="{elapsed} {desc}", leave=False, delay=1) as bar:
        rows = verify.run(samplers, schedules, lambda part: bar.set_description(f"{part}: done"))
    if full:
        print("\n".join(f"{'pass' if row.passed else 'FAIL'}  {verify.full(row)}" for row in rows))
    print(verify.table(rows))
    print(f"{time.perf_counter() - start:.0f} s")
    return rows


if __name__ == "__main__":
    main(sys.argv)
