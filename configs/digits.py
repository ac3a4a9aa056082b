"""Class-conditional digits: the 8x8 images that scikit-learn ships.

    python train.py --config configs/digits.py --workdir runs/digits
    python benchmarks/digits_quality.py --workdir runs/digits --seeds 3

702 753 parameters, 600 steps of 128 images. On 2 CPU cores: 2 min 36 s in all, 528 images/s. An SVM recognizes
99.5%, 99.5% and 99.7% of 1 000 samples (DPM-Solver++ of order 2, 20 steps, guidance 1.3, EMA weights) as the
requested class, for three seeds. The Frechet distance of their raw pixels to the held-out digits is 1.13, 1.05 and
1.00 times the distance of 1 000 real training digits. `:smoke` takes 43 s.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    steps = 600
    config = ml_collections.ConfigDict()
    config.data = dict(name="Digits")
    config.model = dict(name="UNet", channels=(32, 64), blocks=1, attention=(4,), groups=8, num_classes=10)
    config.schedule = dict(name="Cosine")
    config.prediction = dict(name="V")
    config.loss = dict(name="DiffusionLoss")
    config.optimizer = dict(
        name="adamw",
        lr_schedule=dict(
            name="warmup_cosine_decay_schedule",
            init_value=0.0,
            peak_value=2e-3,
            warmup_steps=50,
            decay_steps=steps,
            end_value=2e-4,
        ),
        clip_norm=1.0,
    )
    config.sampler = dict(name="DPMSolverPP", steps=20, guidance=1.3, clip=False)
    config.train = dict(
        steps=steps,
        batch_size=128,
        log_every=20,
        eval_every=300,
        sample_every=300,
        checkpoint_every=300,
        keep_checkpoints=2,
        ema_decay=0.99,
    )
    if variant == "smoke":
        config.model.channels = (16, 32)
        config.train.update(steps=10, batch_size=16, log_every=5, eval_examples=32)
        config.sampler.steps = 4
    elif variant:
        raise ValueError(f'variant "{variant}": must be "smoke", or left out')
    return config
