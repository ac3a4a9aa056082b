"""The certificate: what is right passes, what is wrong fails, and the command says which."""

import dataclasses
import re
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, quick_jit, verified

from diffusion_jax import verify
from diffusion_jax.oracles.data import Correlated, Gaussian, Mixture
from diffusion_jax.process import forward
from diffusion_jax.process.schedules import Cosine, Discrete, RectifiedFlow, Schedule
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.verify import certificate, extras, guidance, pictures
from diffusion_jax.verify.__main__ import main
from diffusion_jax.verify.report import Row, full, table


@pytest.mark.parametrize(
    "part",
    [certificate.of_predictions, guidance.check, pictures.check, extras.check],
    ids=lambda f: f.__module__,
)
def test_every_part_passes(part):
    failed = [full(row) for row in part() if not row.passed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("where", verified())
def test_every_schedule_and_grid_passes(where):
    failed = [full(row) for row in certificate.of_schedules({where: SCHEDULES[where]}) if not row.passed]
    assert not failed, "\n".join(failed)


@dataclasses.dataclass(frozen=True)
class Wrong(Sampler):
    """DDIM with one mistake of those that public code bases have made."""

    order: ClassVar[int] = 1
    mistake: str = "none"
    eta: float = 1.0

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0, eps = denoise(x_t, t)
        before = t - 1e-3 if self.mistake == "one-step posterior" else s
        if self.mistake == "axes swapped":
            x0 = x0.swapaxes(1, 2)
        if self.mistake == "mean of the batch":
            x0 = jnp.where(s > 0, x0 + 1e-3 * x0.mean(axis=0), x0)
        variance = self.eta**2 * forward.posterior(schedule, x_t, x0, t, before)[1]
        if self.mistake == "noise at the end":
            variance = jnp.maximum(variance, 1e-4)
        shrunk = jnp.maximum(schedule.sigma(s) ** 2 - variance, 0.0)
        direction = schedule.sigma(s) if self.mistake == "direction not shrunk" else jnp.sqrt(shrunk)
        amounts = {"noise left out": 0.0, "a tenth too much": 1.1, "a tenth too little": 0.9}
        whose = keys[:1] if self.mistake == "noise of one picture" else keys
        z = amounts.get(self.mistake, 1.0) * standard_normal(whose, x_t.shape[1:])
        return schedule.alpha(s) * x0 + direction * eps + jnp.sqrt(variance) * z, memory


@dataclasses.dataclass(frozen=True)
class Broken(Sampler):
    """Does not keep to the contract of `Sampler`."""

    fault: str = ""
    eta: float = 0.0

    @property
    def order(self):
        if self.fault == "no order":
            raise AttributeError("Broken has no order")
        return 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        if self.fault == "raises":
            raise KeyError("out of luck")
        if self.fault == "untraceable" and self.eta > 0:
            return x_t, memory
        return {
            "no memory": x_t,
            "one picture": (x_t[:1], memory),
            "half": (x_t.astype(jnp.float16), memory),
            "more memory": (x_t, (x_t,)),
        }[self.fault]


@dataclasses.dataclass(frozen=True)
class Overstated(DDIM):
    """DDIM that claims second order."""

    order: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True)
class Unlucky(DDIM):
    def __post_init__(self):
        raise KeyError("no such thing")


class Unfinished(Schedule):
    def log_snr(self, t):
        return 9.0 - 18.0 * jnp.asarray(t)


@dataclasses.dataclass(frozen=True)
class Told(Discrete):
    """Betas that are none."""

    fault: str = ""

    def betas(self):
        if self.fault == "raises":
            raise RuntimeError("oh\nin two lines")
        return {
            "too large": np.linspace(1e-4, 1.5, 500),
            "two columns": np.full((500, 2), 0.01),
            "a list": [0.01] * 500,
            "float32": np.full(500, 0.01, np.float32),
            "none": None,
        }[self.fault]


@dataclasses.dataclass(frozen=True)
class Line(Schedule):
    """log-SNR from 9 to -9 in a straight line, with one fault."""

    fault: str = ""

    def log_snr(self, t):
        if self.fault == "raises":
            raise ValueError("oh")
        if self.fault == "if" and t > 2:
            return t
        if self.fault == "numpy":
            t = np.minimum(t, 1.0)
        t = jnp.asarray(t, jnp.float32)
        line = 9.0 - 18.0 * t
        wrong = {"nan": line * jnp.nan, "scalar": 9.0, "rises": -line, "late": line - 8.0}
        return wrong.get(self.fault, line)

    def alpha(self, t):
        wrong = {"text": "no number", "negative": -super().alpha(t)}
        return wrong[self.fault] if self.fault in wrong else super().alpha(t)

    def time(self, log_snr):
        t = (9.0 - jnp.asarray(log_snr, jnp.float32)) / 18.0
        return jnp.clip(t - 8 / 18, 0, 1) if self.fault == "late" else 1 + t if self.fault == "outside" else t


MISTAKES = {
    "one-step posterior": {"point mass"},
    "noise at the end": {"point mass"},
    "direction not shrunk": {"gaussian"},
    "noise left out": {"gaussian"},
    "noise of one picture": {"batch"},
    "mean of the batch": {"batch"},
    "axes swapped": {"point mass"},
    "a tenth too much": {"limit"},
    "a tenth too little": {"limit"},
}


def test_every_mistake_is_found_and_nothing_else_is():
    own = {name: Wrong(name) for name in (*MISTAKES, "none")} | {"overstated": Overstated()}
    found = verify.marched.run(Cosine(), own)
    rows = [*verify.sampling.check(found, own, "cosine"), *verify.limit.check(found, own, "cosine")]
    failed = {name: {row.check for row in rows if row.subject == name and not row.passed} for name in own}
    assert failed["none"] == set()
    assert failed["overstated"] == {"order", "to data"}
    for name, checks in MISTAKES.items():
        assert failed[name] >= checks, name


@dataclasses.dataclass(frozen=True)
class Late(Schedule):
    """A schedule whose inverse is off by a little and that never ends on data."""

    def log_snr(self, t):
        return 9.0 - 18.0 * jnp.asarray(t, jnp.float32)

    def time(self, log_snr):
        return jnp.clip((9.5 - log_snr) / 18.0, 0.0, 1.0)


def test_a_wrong_schedule_fails_by_name():
    rows = verify.process.check_schedule(Late(), "late")
    failed = {row.check for row in rows if not row.passed}
    assert failed == {"t = 0 is data: alpha = 1, sigma = 0", "time(log_snr(t)) = t"}


class Unscaled(RectifiedFlow):
    """The straight line, with the scales of another schedule."""

    def scales(self, log_snr):
        return Schedule.scales(self, log_snr)

    def alpha(self, t):
        return 1.0 - jnp.asarray(t, jnp.float32)

    def sigma(self, t):
        return jnp.asarray(t, jnp.float32)


def test_scales_of_another_schedule_fail_by_name():
    rows = verify.process.check_schedule(Unscaled(), "unscaled")
    assert "scales(log_snr(t)) = alpha, sigma" in {row.check for row in rows if not row.passed}


def test_the_command_certifies_a_sampler_of_ones_own(capsys):
    with pytest.raises(SystemExit) as done:
        main(["verify", "--sampler", "test_verify:Wrong(mistake='none')", "--schedule", "RectifiedFlow"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert re.search(r"^test_verify:Wrong\(mistake='none'\).* pass$", printed, re.M)
    assert "all pass" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sampler", "DDMI"], "DDIM"),
        (["--sampler", "nowhere:Mine"], "nowhere"),
        (["--sampler", "DDIM(0.5)"], "name the arguments"),
        (["--schedule", "Cosine(steps=-1)"], "steps = -1"),
        (["extra"], '"extra": is no flag'),
        (["--sampler", "RK45"], "RK45.*chooses its own steps"),
        (["--sampler", "SelfConditioned(sampler=RK45())"], "SelfConditioned.*chooses its own steps"),
        (
            ["--sampler", "DDIM(eta=x)"],
            r'--sampler "DDIM\(eta=x\)": .*\(x is not a value; put text in quotes and \(\) after',
        ),
        (["--sampler", "DDIM(eta=0.1, eta=0.2)"], r"\(eta is given twice\)"),
        (["--sampler", "DDIM("], r'--sampler "DDIM\(": must be a name, or as in DDIM\(eta=0.5\)$'),
        (["--sampler", "DDIM(eta=1.2)"], "--sampler: eta = 1.2: must be in"),
        (["--sampler", "test_verify:Unlucky"], "--sampler: Unlucky fails with KeyError: 'no such thing'"),
        (["--schedule", "test_verify:Unfinished"], "still lacks time"),
        (["--schedule", "Cosine(steps=100)"], "has 100 steps; .*needs a whole number, 500 or more"),
        (["--sampler", "test_verify:Broken(fault='raises')"], "step fails with KeyError: 'out of luck'"),
        (["--sampler", "test_verify:Broken(fault='no order')"], "has no order; declare it"),
        (["--sampler", "test_verify:Broken(fault='untraceable')"], "fails with TracerBoolConversionError"),
        (["--sampler", "test_verify:Broken(fault='no memory')"], r"returns .*, must return \(x_s, memory\)"),
        (
            ["--sampler", "test_verify:Broken(fault='one picture')"],
            r"\[1, 1, 1, 3\], must be like x_t",
        ),
        (["--sampler", "test_verify:Broken(fault='half')"], r"x_s of float16"),
        (["--sampler", "test_verify:Broken(fault='more memory')"], "memory of .*must be like that of init"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, words):
    with pytest.raises(SystemExit, match=words) as failure:
        main(["verify", *arguments])
    assert "\n" not in str(failure.value)


FAULTS = {
    "Told(fault='raises')": r"betas\(\) fails with RuntimeError: oh$",
    "Told(fault='too large')": r"betas\(\) goes from 0.0001 to 1.5, must be in \[0, 1\]$",
    "Told(fault='two columns')": r"betas\(\) makes an array float64\[500, 2\], must make a NumPy array",
    "Told(fault='a list')": r"betas\(\) makes \[0.01.*\.\.\., must make a NumPy array",
    "Told(fault='float32')": r"betas\(\) makes an array float32\[500\], must make",
    "Told(fault='none')": r"betas\(\) makes None, must make",
    "Line(fault='numpy')": r"alpha\(\) under jit, .* fails with TracerArrayConversionError",
    "Line(fault='if')": r"alpha\(\) under jit, .* fails with TracerBoolConversionError",
    "Line(fault='text')": r"alpha\(\) under jit, .* fails with",
    "Line(fault='raises')": r"alpha\(\) under jit, .* fails with ValueError: oh$",
    "Line(fault='negative')": r"alpha\(\) is negative.*; clip it at 0",
    "Line(fault='nan')": r"alpha\(\) is NaN",
    "Line(fault='scalar')": r"alpha\(\) of \[9\] is \[\], must be alike",
    "Line(fault='rises')": "log_snr must fall strictly.* goes -9, -4.5, -0, 4.5, 9",
    "Line(fault='outside')": r"leaves \[0, 1\]: 1, 1.2",
    "Line(fault='late')": "20 steps of log-SNR from 6 down meet",
}


@pytest.mark.parametrize("schedule", FAULTS)
def test_what_is_no_schedule_is_one_line(schedule):
    with pytest.raises(SystemExit, match=FAULTS[schedule]) as failure:
        main(["verify", "--schedule", f"test_verify:{schedule}"])
    assert "\n" not in str(failure.value)


def test_a_row_is_passed_on_the_right_side_of_its_limit_only():
    assert Row("c", "", 1.0, 1.0).passed
    assert not Row("c", "", 1.1, 1.0).passed
    assert not Row("c", "", np.nan, 1.0).passed
    assert Row("c", "", 1.1, 1.0, at_least=True).passed
    assert not Row("c", "", 0.9, 1.0, at_least=True).passed
    assert not Row("c", "", np.inf, 1.0, at_least=True).passed


def test_the_table_names_the_worst_and_what_failed():
    rows = [
        Row("order", "cosine", 1.9, 1.7, at_least=True, subject="Heun()"),
        Row("order", "karras", 1.2, 1.7, at_least=True, subject="Heun()"),
        Row("slerp", "weight 1", 0.0, 0.0),
    ]
    text = table(rows)
    assert "1.20 !" in text
    assert "FAIL" in text
    assert "FAILED order: Heun(), karras: 1.20, must be >= 1.70" in text
    assert text.endswith("3 cases, 1 failed")
    assert table(rows[2:]).endswith("1 cases, all pass")
    many = table([rows[1]] * 23)
    assert many.count("FAILED order") == 20
    assert "and 3 more that FAILED; --full shows all" in many


@pytest.mark.parametrize("data", [Gaussian(0.3, 0.5), Correlated(), Mixture()], ids=lambda d: type(d).__name__)
def test_the_closed_forms_agree_with_one_another(data):
    """The flow's slope is the denoiser's x0 d(alpha) + eps d(sigma), by central differences."""
    x = np.linspace(-1.0, 1.2, 6).reshape(3, 2)
    at, h = (0.8, 0.6), 1e-4
    d_alpha, d_sigma = -0.6 * h, 0.8 * h
    ahead, behind = ((at[0] + k * d_alpha, at[1] + k * d_sigma) for k in (1, -1))
    slope = (data.flow(x, at, ahead) - data.flow(x, at, behind)) / (2 * h)
    found = quick_jit(lambda x: data.denoised(x, *at))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(slope, -0.6 * found.x0 + 0.8 * found.eps, atol=1e-3)
