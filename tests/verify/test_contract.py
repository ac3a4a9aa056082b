"""Samplers and schedules that do not keep to their interface are refused in one line, before anything is compiled."""

import mistakes
import pytest

from diffusion_jax.process.schedules import Cosine
from diffusion_jax.sampling.samplers import RK45, SelfConditioned
from diffusion_jax.verify.cases import SAMPLERS, SCHEDULES
from diffusion_jax.verify.contract import check_sampler_contract, check_schedule_contract

SAMPLER_FAULTS = {
    RK45(): "mine: chooses its own steps, so its order cannot be measured",
    SelfConditioned(sampler=RK45()): "mine: chooses its own steps",
    mistakes.Unregistered(): "must be a registered pytree; put @dj.register_dataclass above",
    mistakes.Broken("raises"): "mine: step fails with KeyError: 'out of luck'$",
    mistakes.Broken("no order"): "mine: order fails with AttributeError: Broken has no order$",
    mistakes.Broken("order is text"): "mine: has no order; define it",
    mistakes.Broken("untraceable"): "step fails with TracerBoolConversionError",
    mistakes.Broken("no memory"): r"step returns .*: must return \(x_s, memory\)$",
    mistakes.Broken("one image"): r"x_s of float32\[1, 1, 1, 3\]: must be like x_t, float32\[2, 1, 1, 3\]$",
    mistakes.Broken("half"): "x_s of float16",
    mistakes.Broken("more memory"): r"memory of \(float32.*: must be like the memory of init, \(\)$",
}
SCHEDULE_FAULTS = {
    Cosine(steps=100): "mine: has 100 steps: .* use an integer >= 500$",
    mistakes.BrokenBetas("raises"): r"betas\(\) fails with RuntimeError: oh$",
    mistakes.BrokenBetas("too large"): r"betas\(\) goes from 0.0001 to 1.5: must be in \[0, 1\]$",
    mistakes.BrokenBetas("two columns"): r"betas\(\) returns an array float64\[500, 2\]: must be a NumPy array",
    mistakes.BrokenBetas("a list"): r"betas\(\) returns \[0.01.*\.\.\.: must be a NumPy array",
    mistakes.BrokenBetas("float32"): r"betas\(\) returns an array float32\[500\]: must be",
    mistakes.BrokenBetas("none"): r"betas\(\) returns None: must be",
    mistakes.Line("numpy"): r"alpha\(\) under jit, .* fails with TracerArrayConversionError",
    mistakes.Line("if"): r"alpha\(\) under jit, .* fails with TracerBoolConversionError",
    mistakes.Line("text"): r"alpha\(\) under jit, .* fails with",
    mistakes.Line("raises"): r"alpha\(\) under jit, .* fails with ValueError: oh$",
    mistakes.Line("negative"): r"alpha\(\) is negative.*; clip it at 0$",
    mistakes.Line("nan"): r"alpha\(\) is NaN",
    mistakes.Line("scalar"): r"alpha\(\) of \[9\] is \[\]: must be the same shape$",
    mistakes.Line("rises"): "log_snr must decrease strictly.* got -9, -4.5, -0, 4.5, 9$",
    mistakes.Line("outside"): r"leaves \[0, 1\]: 1, 1.2",
    mistakes.Line("late"): "20 steps of log-SNR from 6 down coincide",
}


@pytest.mark.parametrize("sampler", SAMPLER_FAULTS, ids=repr)
def test_a_sampler_with_a_fault_is_refused_in_one_line(sampler):
    with pytest.raises(ValueError, match=SAMPLER_FAULTS[sampler]) as failure:
        check_sampler_contract("mine", sampler)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("schedule", SCHEDULE_FAULTS, ids=repr)
def test_a_schedule_with_a_fault_is_refused_in_one_line(schedule):
    with pytest.raises(ValueError, match=SCHEDULE_FAULTS[schedule]) as failure:
        check_schedule_contract("mine", schedule)
    assert "\n" not in str(failure.value)


def test_our_samplers_and_schedules_keep_to_it():
    for name in ("DDIM()", "UniPC(order=3)", "SelfConditioned(sampler=Heun())"):
        check_sampler_contract(name, SAMPLERS[name])
    for where in ("linear", "karras"):
        check_schedule_contract(where, SCHEDULES[where])
