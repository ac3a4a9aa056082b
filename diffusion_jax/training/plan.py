"""What a training run does and when: the `train` section of a config."""

import dataclasses
from collections.abc import Iterator
from dataclasses import field
from typing import NamedTuple

from diffusion_jax.validation import Checked, divides, instance, integer, number

__all__ = ["Due", "Plan"]


class Due(NamedTuple):
    """The actions that are due at one step, in the order in which they run."""

    save: bool = False
    evaluate: bool = False
    sample: bool = False


@dataclasses.dataclass(frozen=True)
class Plan(Checked):
    """The `train` section of a config.

    Attributes:
      steps: length of the run, in batches.
      batch_size: global batch size, over all devices.
      log_every, eval_every, sample_every, checkpoint_every: interval in steps; 0 for only at the end.
      eval_examples: number of held-out examples per evaluation; 0 for all.
      keep_checkpoints: number of newest checkpoints to keep.
      ema_decay: decay of the averaged parameters, which the samples are generated with.
      accumulate: number of micro-batches per batch, for batches that do not fit on the device at once.
      steps_per_call: largest number of steps that are started at once, for devices that are faster than the host can
        start single steps. Nothing else changes: logs, evaluations, samples and checkpoints end a call early.
      data_on_device: keep all training images in the memory of every device, where the batches are then gathered.
      max_skipped: number of batches skipped in a row, or half of the run's, after which it stops with an error; 0 for
        no limit.
      skip_spikes: skip a batch whose loss or gradient norm exceeds this multiple of its running median; 0 for never.
      stop_if_save_fails: stop when a checkpoint cannot be written, instead of training on to the next one.
      seed: seed of everything: parameters, order of the data, noise, dropout, samples.
      init_from: a run, an exported .safetensors file or "pretrained:NAME", whose EMA weights the parameters and their
        average start from, by name; "" for new parameters.
      init_partial: let the parameters that do not fit, such as those of other classes, start anew.

    >>> Plan(steps=1000, batch_size=64).checkpoint_every
    1000
    """

    steps: int = field(metadata=integer(1))
    batch_size: int = field(metadata=integer(1))
    log_every: int = field(default=100, metadata=integer(0))
    eval_every: int = field(default=1000, metadata=integer(0))
    sample_every: int = field(default=1000, metadata=integer(0))
    checkpoint_every: int = field(default=1000, metadata=integer(0))
    eval_examples: int = field(default=2048, metadata=integer(0))
    keep_checkpoints: int = field(default=3, metadata=integer(1))
    ema_decay: float = field(default=0.999, metadata=number("[0, 1)"))
    accumulate: int = field(default=1, metadata=integer(1) | divides("batch_size"))
    steps_per_call: int = field(default=1, metadata=integer(1))
    data_on_device: bool = field(default=False, metadata=instance(bool, "True"))
    max_skipped: int = field(default=100, metadata=integer(0))
    skip_spikes: float = field(default=0.0, metadata=number("[0, inf)"))
    stop_if_save_fails: bool = False
    seed: int = field(default=0, metadata=integer(0, 2**32 - 1))
    init_from: str = ""
    init_partial: bool = False

    def __post_init__(self):
        super().__post_init__()
        if 0 < self.skip_spikes <= 1:
            raise ValueError(f"skip_spikes = {self.skip_spikes}: must be greater than 1, or 0 for never")
        if self.init_partial and not self.init_from:
            raise ValueError("init_partial = True: needs init_from; set it, or leave both out")

    def steps_in_call(self, step: int) -> int:
        """The number of steps of the call that follows `step` steps: up to the next one at which anything is due.

        >>> plan = Plan(steps=1000, batch_size=64, log_every=25, steps_per_call=10)
        >>> [plan.steps_in_call(step) for step in (0, 10, 20, 25, 999)]
        [10, 10, 5, 10, 1]
        """
        intervals = self.log_every, self.checkpoint_every, self.eval_every, self.sample_every
        return min(self.steps_per_call, self.steps - step, *(every - step % every for every in intervals if every))

    def calls(self, start: int) -> Iterator[int]:
        """The number of steps of each call from step `start` to the end.

        >>> list(Plan(steps=100, batch_size=64, log_every=25, steps_per_call=10).calls(60))
        [10, 5, 10, 10, 5]
        """
        while start < self.steps:
            yield (n := self.steps_in_call(start))
            start += n

    def due(self, step: int) -> "Due":
        """The actions that are due after `step` steps."""
        intervals = self.checkpoint_every, self.eval_every, self.sample_every
        return Due(*(self.is_due(step, every) for every in intervals))

    def is_due(self, step: int, every: int) -> bool:
        """Whether an action with this interval is due after `step` steps; at the end every action is."""
        return step == self.steps or self.is_on_schedule(step, every)

    def is_on_schedule(self, step: int, every: int) -> bool:
        """Whether the action would be due after `step` steps in a longer run too."""
        return every > 0 and step % every == 0
