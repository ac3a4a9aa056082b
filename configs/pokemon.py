"""Images of Pokemon at 64x64: the recipe of github.com/girishdhegde/diffusion, on a directory of images.

    python train.py --config configs/pokemon.py --config.data.path=pokemon --workdir runs/pokemon

The original has the FiLM U-Net of width 64, the clipped cosine schedule of T = 100, eps, AdamW 2e-4 and 100 000
batches of 16, images squashed to 64x64 and mirrored at random. Added here: an average of the weights, and x0 clipped
in sampling (of the 64 published images 4 or 5 are blank).

22 171 779 parameters. `:cpu`, the first 300 batches and images in 25 steps, took 47 minutes on 2 CPU cores with
other work on them (4.2 s per batch without): loss 0.087 over the last 100 batches, held-out loss 0.086 on 40 of 800
images; the original reports 0.077 after 1 000 and 0.0105 after 100 000. Its images are soft patches of colour on
white. `:smoke` takes 41 s. All 100 000 are for a GPU and have not been run.
With types as classes: --config.data.classes=csv --config.data.csv=types.csv --config.data.csv_class=types
--config.data.csv_separator="|".
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = dict(name="Folder", path="pokemon", crop="squash", holdout=20, max_skipped=8, flip=True)
    config.model = dict(name="FiLMUNet", time_scale=100.0)  # T of the schedule
    config.schedule = dict(name="Cosine", steps=100, min_beta=1e-4, max_beta=0.9999)
    config.prediction = dict(name="Eps")
    config.loss = dict(name="DiffusionLoss", times=dict(name="UniformTimes"))
    config.optimizer = dict(name="adamw", lr_schedule=2e-4, b2=0.95, weight_decay=1e-3)
    config.sampler = dict(name="DDPM", variance="large", steps=100)
    config.train = dict(
        steps=100_000,
        batch_size=16,
        log_every=50,
        eval_every=5000,
        sample_every=5000,
        eval_examples=0,
    )
    if variant == "cpu":
        config.train.update(steps=300, log_every=10, eval_every=0, sample_every=0, checkpoint_every=100)
        config.train.ema_decay = 0.98
        config.sampler.steps = 25
    elif variant == "smoke":
        config.data.size = 32
        config.model.update(width=16, multipliers=(1, 2), attention=(16,))
        config.train.update(steps=10, batch_size=8, log_every=5)
        config.sampler.steps = 4
    elif variant:
        raise ValueError(f'variant "{variant}": must be "cpu" or "smoke", or left out')
    return config
