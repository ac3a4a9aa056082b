"""The inputs of the page: as arguments of the library, and as flags of the commands that do the same."""

import dataclasses
from typing import Any

import numpy as np

from diffusion_jax.config.sections import COMPONENTS
from diffusion_jax.config.text import sampler_from_text
from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.run import Run
from diffusion_jax.validation import Checked, instance, integer, number, printable

__all__ = [
    "ALL_CLASSES",
    "MAX_NUMBER",
    "MAX_STEPS",
    "Choices",
    "class_choices",
    "default_settings",
    "max_steps",
    "sampler_choices",
]

ALL_CLASSES = -2  # a label as NO_LABEL is: each class in turn
MAX_NUMBER, MAX_STEPS = 64, 1000


@dataclasses.dataclass(frozen=True)
class Choices(Checked):
    """What to generate.

    Attributes:
      label: a class; ALL_CLASSES for all of them in turn, NO_LABEL for no class.
      guidance: scale of classifier-free guidance; not used with NO_LABEL.
      steps: steps from noise to data.
      sampler: text such as "DDIM(eta=0.5)"; "" for the run's own sampler.
      seed: image i depends on the seed and i only.
      number: number of images.

    Raises ValueError if a value is out of range.

    >>> Choices(label=3, guidance=2.0, steps=20, sampler="", seed=0, number=65)
    Traceback (most recent call last):
    ...
    ValueError: number = 65: must be an integer from 1 to 64
    """

    label: int = dataclasses.field(metadata=integer(ALL_CLASSES))
    guidance: float = dataclasses.field(metadata=number())
    steps: int = dataclasses.field(metadata=integer(1, MAX_STEPS))
    sampler: str = dataclasses.field(metadata=instance(str, '"DDIM(eta=0.5)"'))
    seed: int = dataclasses.field(metadata=integer(0, 2**32 - 1))
    number: int = dataclasses.field(metadata=integer(1, MAX_NUMBER))

    def arguments(self, run: Run) -> dict[str, Any]:
        """Keyword arguments of `Run.sample`, of the figures and of `Job`."""
        chosen: dict[str, Any] = {"steps": self.steps, "labels": self._labels(run)}
        if self.sampler:
            chosen["sampler"] = sampler_from_text(self.sampler)
        return chosen if self.label == NO_LABEL else chosen | {"guidance": self.guidance}

    def flags(self) -> list[str]:
        """The flags of `sample` and `edit` that say the same, except the label."""
        words = ["--steps", str(self.steps), "--seed", str(self.seed)]
        if self.sampler:
            words += ["--sampler", self.sampler]
        return words if self.label == NO_LABEL else [*words, "--guidance", repr(self.guidance).removesuffix(".0")]

    def sample_labels(self, run: Run) -> list[str]:
        """The flag --labels of `sample`, whose default is all classes."""
        if self.label == ALL_CLASSES or not run.network.num_classes:
            return []
        if self.label == NO_LABEL:
            is_class = "none" in [name.lower() for name in run.class_names]
            return ["--labels", "#none" if is_class else "none"]
        return ["--labels", _label_text(run, self.label)]

    def edit_labels(self, run: Run) -> list[str]:
        """The flag --labels of `edit`, whose default is no class."""
        labels = self._labels(run)
        if labels is None:
            return []
        distinct = [self.label] if self.label >= 0 else labels[: run.network.num_classes].tolist()
        return ["--labels", ",".join(_label_text(run, label) for label in distinct)]

    def _labels(self, run: Run) -> np.ndarray | None:
        """One class per image, int [number]; None for no class."""
        if self.label == NO_LABEL:
            return None
        return np.resize(np.arange(run.network.num_classes) if self.label == ALL_CLASSES else self.label, self.number)


def default_settings(run: Run) -> Choices:
    """The settings that the page starts with: those of the run.

    >>> default_settings(dj.load("runs/digits")).steps  # doctest: +SKIP
    20
    """
    sampling = run.sampling
    return Choices(
        label=ALL_CLASSES if run.network.num_classes else NO_LABEL,
        guidance=np.asarray(sampling.guidance.scale).item(),
        steps=min(sampling.steps, max_steps(run)),
        sampler="",
        seed=0,
        number=16,
    )


def max_steps(run: Run) -> int:
    """The largest number of steps to choose; a discrete schedule of T steps has no more than T."""
    return min(MAX_STEPS, run.schedule.steps or MAX_STEPS)


def class_choices(run: Run) -> list[tuple[str, int]]:
    """(text, label) of each choice of the class; empty if the run has no classes.

    >>> class_choices(dj.load("runs/digits"))[:3]  # doctest: +SKIP
    [('all in turn', -2), ('no class', -1), ('0', 0)]
    """
    network = run.network
    if not network.num_classes:
        return []
    no_class = [("no class", NO_LABEL)] if network.unlabelled else []
    names = [(printable(run.class_name(i)), i) for i in range(network.num_classes)]
    return [("all in turn", ALL_CLASSES), *no_class, *names]


def sampler_choices(run: Run) -> list[tuple[str, str]]:
    """(text, sampler) of each choice of the sampler: the run's own, then each that its name alone makes for this run.

    >>> sampler_choices(dj.load("runs/digits"))[:2]  # doctest: +SKIP
    [('of the run (DPMSolverPP)', ''), ('DDIM', 'DDIM')]
    """
    names = [name for name in COMPONENTS["sampler"].names() if _is_choice(run, name)]
    return [(f"of the run ({type(run.sampling.sampler).__name__})", ""), *((name, name) for name in names)]


def _is_choice(run: Run, sampler: str) -> bool:
    """Whether a sampler has no required argument, its packages are installed, and the network has what it needs."""
    try:
        run.network.adapt_sampler(sampler_from_text(sampler))
    except ValueError:
        return False
    return True


def _label_text(run: Run, label: int) -> str:
    """A class by its number, as --labels reads it: #3 where "3" is the name of another class."""
    others = (*run.class_names[:label], *run.class_names[label + 1 :])
    return f"#{label}" if str(label) in others else str(label)
