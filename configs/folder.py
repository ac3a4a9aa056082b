"""Your own pictures, in one line.

    python train.py --config configs/folder.py --config.data.path=$HOME/pictures --workdir runs/mine

Any folder of PNG, JPEG or WebP files, with all that lie below it: cropped to their middle, resized to 64x64.
With a class for each of 12 sub-folders, add --config.data.classes=folder --config.model.num_classes=12
--config.loss.label_drop=0.1 --config.sampler.guidance=2.0. A GPU or a TPU is needed for its 69 631 875
parameters; it has not been run there. `:smoke`, ten steps of a small network at 32x32, takes 42 s on
2 CPU cores.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = dict(
        name="Folder",
        path="pictures",
        size=64,
        channels=3,
        crop="center",
        background="white",
        classes="none",
        csv="",
        csv_file="file",
        csv_class="class",
        csv_separator="",
        holdout=20,
        max_skipped=8,
        max_pixels=64_000_000,
        cache_dir="",
        flip=True,
    )
    config.model = dict(
        name="UNet",
        channels=(128, 256, 384, 384),
        blocks=2,
        attention=(16, 8),
        head_channels=64,
        scale_shift=True,
        num_classes=0,
        dropout=0.1,
        groups=32,
        dtype="bfloat16",
    )
    config.schedule = dict(name="Cosine", steps=1000)
    config.prediction = dict(name="V")
    config.loss = dict(
        name="DiffusionLoss",
        weighting=dict(name="MinSNR", gamma=5.0),
        times=dict(name="StratifiedTimes"),
        label_drop=0.0,
    )
    config.optimizer = dict(
        name="adamw",
        lr_schedule=dict(name="linear_schedule", init_value=0.0, end_value=2e-4, transition_steps=1000),
        weight_decay=1e-2,
        clip_norm=1.0,
    )
    config.sampler = dict(name="DPMSolverPP", order=2, steps=25, grid=dict(name="Uniform"), guidance=1.0, clip=True)
    config.train = dict(
        steps=100_000,
        batch_size=64,
        log_every=50,
        eval_every=2500,
        sample_every=2500,
        checkpoint_every=2500,
        eval_examples=512,
        keep_checkpoints=3,
        ema_decay=0.9999,
        accumulate=1,
        seed=0,
    )
    config.mesh = dict(data=-1, fsdp=1)
    if variant == "smoke":
        config.data.size = 32
        config.model.update(channels=(32, 64), blocks=1, attention=(), head_channels=16, groups=8)
        config.model.dtype = "float32"
        config.train.update(steps=10, batch_size=8, log_every=5)
        config.sampler.steps = 4
    elif variant:
        raise ValueError(f'variant "{variant}": use "smoke", or none')
    return config
