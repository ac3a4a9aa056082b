"""Class-conditional MNIST with a small U-Net on squares of two by two pixels, to compare samplers with.

    tfds build mnist --file_format=array_record            # once, on a machine with network access
    python train.py --config configs/mnist_small.py --workdir runs/mnist_small
    python benchmarks/quality_vs_calls.py --workdir runs/mnist_small --num_samples 400

704 484 parameters, 5 000 steps of 64: 34 minutes on 2 CPU cores with other work on them, loss 0.111, held-out loss
0.109. docs/quality.md has the quality of each sampler by the number of network calls. `:smoke` takes half a minute.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    steps = 5000
    config = ml_collections.ConfigDict()
    config.data = dict(name="TFDS", dataset="mnist")
    config.model = dict(name="UNet", channels=(32, 64), blocks=1, patch=2, attention=(7,), groups=8, num_classes=10)
    config.schedule = dict(name="Cosine")
    config.prediction = dict(name="V")
    config.loss = dict(name="DiffusionLoss")
    config.optimizer = dict(
        name="adamw",
        lr_schedule=dict(
            name="warmup_cosine_decay_schedule",
            init_value=0.0,
            peak_value=2e-3,
            warmup_steps=100,
            decay_steps=steps,
            end_value=2e-5,
        ),
        clip_norm=1.0,
    )
    config.sampler = dict(name="DPMSolverPP", steps=20, clip=False)
    config.train = dict(
        steps=steps,
        batch_size=64,
        log_every=20,
        eval_every=1250,
        sample_every=1250,
        checkpoint_every=250,
        eval_examples=512,
        keep_checkpoints=2,
        ema_decay=0.998,
    )
    if variant == "smoke":
        config.model.channels = (16, 32)
        config.train.update(steps=10, batch_size=16, log_every=5, eval_examples=16)
        config.sampler.steps = 4
    elif variant:
        raise ValueError(f'variant "{variant}": must be "smoke", or left out')
    return config
