"""Unconditional CIFAR-10: the recipe of DDPM (Ho et al. 2020, App. B), on TFDS data.

    tfds build cifar10 --file_format=array_record          # once, on a machine with network access
    python train.py --config configs/cifar10.py --workdir runs/cifar10

35 746 307 parameters, 800 000 steps of 128 images. The authors trained for 10.6 hours on a TPU v3-8. The time and
the quality of this run have not been measured yet. It needs a GPU or a TPU: on a CPU one step takes most of a
minute. With several devices the batch is split; `--config.mesh.fsdp=8` splits the state as well.
`:smoke`, ten steps of a small network, takes 47 s on 2 CPU cores.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = dict(name="TFDS", dataset="cifar10", flip=True)
    # The widths, blocks, attention and groups of the paper's network are the defaults of UNet.
    config.model = dict(name="UNet", num_classes=0, dropout=0.1, downsample_padding=0, dtype="bfloat16")
    config.schedule = dict(name="LinearBeta")
    config.prediction = dict(name="Eps")
    config.loss = dict(name="DiffusionLoss", times=dict(name="UniformTimes"))
    config.optimizer = dict(
        name="adam",
        lr_schedule=dict(name="linear_schedule", init_value=0.0, end_value=2e-4, transition_steps=5000),
        clip_norm=1.0,
    )
    config.sampler = dict(name="DDPM", variance="large", steps=1000)
    config.train = dict(
        steps=800_000,
        batch_size=128,
        eval_every=10_000,
        sample_every=10_000,
        checkpoint_every=10_000,
        ema_decay=0.9999,
    )
    if variant == "smoke":
        config.model.update(channels=(16, 32), blocks=1, groups=8, dtype="float32")
        config.train.update(steps=10, batch_size=16, log_every=5, eval_examples=32)
        config.sampler.steps = 4
    elif variant:
        raise ValueError(f'variant "{variant}": must be "smoke", or left out')
    return config
