"""Unconditional CIFAR-10: the recipe of DDPM (Ho et al. 2020, App. B), on TFDS data.

    tfds build cifar10 --file_format=array_record          # once, where there is a network
    python train.py --config configs/cifar10.py --workdir runs/cifar10

35 746 307 parameters. 800 000 steps of 128 pictures; they trained on TPU v3-8 for 10.6 hours. This run's own
time and figures are not measured yet. A GPU or TPU is needed: on a CPU one step takes most of a minute.
On several devices the batch is split; `--config.mesh.fsdp=8` splits the state too.
`:smoke`, ten steps of a small network, takes 47 s on 2 CPU cores.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = dict(
        name="TFDS",
        dataset="cifar10",
        data_dir="",
        train_split="train",
        heldout_split="test",
        flip=True,
    )
    config.model = dict(
        name="UNet",
        channels=(128, 256, 256, 256),
        blocks=2,
        attention=(16,),
        heads=1,
        dropout=0.1,
        groups=32,
        downsample_padding=0,
        dtype="bfloat16",
    )
    config.schedule = dict(name="LinearBeta", steps=1000, start=1e-4, end=0.02)
    config.prediction = dict(name="Eps")
    config.loss = dict(
        name="DiffusionLoss",
        weighting=dict(name="Uniform"),
        times=dict(name="UniformTimes"),
        label_drop=0.0,
    )
    config.optimizer = dict(
        name="adam",
        lr_schedule=dict(name="linear_schedule", init_value=0.0, end_value=2e-4, transition_steps=5000),
        clip_norm=1.0,
    )
    config.sampler = dict(
        name="DDPM",
        variance="large",
        steps=1000,
        grid=dict(name="Uniform"),
        guidance=1.0,
        clip=True,
    )
    config.train = dict(
        steps=800_000,
        batch_size=128,
        log_every=100,
        eval_every=10_000,
        sample_every=10_000,
        checkpoint_every=10_000,
        keep_checkpoints=3,
        ema_decay=0.9999,
        accumulate=1,
        seed=0,
    )
    config.mesh = dict(data=-1, fsdp=1)
    if variant == "smoke":
        config.model.update(channels=(16, 32), blocks=1, groups=8, dtype="float32")
        config.train.update(steps=10, batch_size=16, log_every=5, eval_examples=32)
        config.sampler.steps = 4
    elif variant:
        raise ValueError(f'variant "{variant}": use "smoke", or none')
    return config
