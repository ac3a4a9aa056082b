"""Your own images, in one line.

    python train.py --config configs/folder.py --config.data.path=$HOME/images --workdir runs/mine

Any directory of images (docs/your-own-images.md lists the formats), cropped to the centre, resized to 64x64. If each
subdirectory holds a class, add --config.data.classes=folder. Its 69 631 875 parameters need a GPU or a TPU, where it
has not been run yet. `:cpu` is for a laptop: 3 022 348 parameters at 32x32, 3 000 batches of 16, each of which takes
half a second on 2 CPU cores; its first grid comes after 300. `:smoke`, ten steps of a small network at 32x32, takes
42 s on 2 CPU cores.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = dict(name="Folder", path="images", holdout=20, max_skipped=8, flip=True)
    config.model = dict(
        name="UNet",
        channels=(128, 256, 384, 384),
        attention=(16, 8),
        head_channels=64,
        scale_shift=True,
        dropout=0.1,
        dtype="bfloat16",
    )
    config.schedule = dict(name="Cosine")
    config.prediction = dict(name="V")
    config.loss = dict(name="DiffusionLoss", weighting=dict(name="MinSNR"))
    config.optimizer = dict(
        name="adamw",
        lr_schedule=dict(name="linear_schedule", init_value=0.0, end_value=2e-4, transition_steps=1000),
        weight_decay=1e-2,
        clip_norm=1.0,
    )
    config.sampler = dict(name="DPMSolverPP", steps=25)
    config.train = dict(
        steps=100_000,
        batch_size=64,
        log_every=50,
        eval_every=2500,
        sample_every=2500,
        checkpoint_every=2500,
        eval_examples=512,
        ema_decay=0.9999,
    )
    if variant == "cpu":
        steps = 3000
        config.data.size = 32
        # Squares of 2x2 pixels as channels: 16x16 positions, a quarter of the time of 32x32.
        config.model.update(
            channels=(64, 128),
            blocks=1,
            attention=(8,),
            head_channels=32,
            groups=16,
            patch=2,
            dropout=0.0,
            dtype="float32",
        )
        config.optimizer.lr_schedule = dict(
            name="warmup_cosine_decay_schedule",
            init_value=0.0,
            peak_value=1e-3,
            warmup_steps=200,
            decay_steps=steps,
            end_value=1e-5,
        )
        config.train.update(steps=steps, batch_size=16, eval_every=600, sample_every=300, checkpoint_every=300)
        config.train.update(eval_examples=64, ema_decay=0.995)
        config.sampler.steps = 15
    elif variant == "smoke":
        config.data.size = 32
        config.model.update(channels=(32, 64), blocks=1, attention=(), head_channels=16, groups=8, dtype="float32")
        config.train.update(steps=10, batch_size=8, log_every=5)
        config.sampler.steps = 4
    elif variant:
        raise ValueError(f'variant "{variant}": must be "cpu" or "smoke", or left out')
    return config
