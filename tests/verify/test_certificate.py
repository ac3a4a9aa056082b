"""The parts of the certificate that are not about samplers pass, and wrong schedules fail by name."""

from unittest import mock

import pytest
from mistakes import Late, Unscaled
from oracles import SCHEDULES
from slow import slow

from diffusion_jax import verify
from diffusion_jax.sampling.samplers import DDIM
from diffusion_jax.verify import certificate
from diffusion_jax.verify.cases import KINDS
from diffusion_jax.verify.certificate import check_predictions, check_schedules
from diffusion_jax.verify.editing import check_editing
from diffusion_jax.verify.guidance import check_guidance
from diffusion_jax.verify.likelihood import check_likelihood
from diffusion_jax.verify.loop import check_loop
from diffusion_jax.verify.process import check_schedule
from diffusion_jax.verify.report import format_row
from diffusion_jax.verify.run_sample import POINT_CHECK

# Five schedules of different form; the other four are of the same forms, and slow.
SAME_FORM = ("sigmoid", "betas", "shifted_cosine", "shifted_rectified")
ALL_SCHEDULES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SAME_FORM)) for name in SCHEDULES]
PARTS = [check_predictions, *slow(check_guidance, check_loop, check_editing, check_likelihood)]


@pytest.mark.parametrize("part", PARTS, ids=lambda check: check.__name__)
def test_every_part_passes(part):
    failed = [format_row(row) for row in part() if not row.passed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("where", ALL_SCHEDULES)
def test_every_schedule_and_grid_passes(where):
    failed = [format_row(row) for row in check_schedules({where: SCHEDULES[where]}) if not row.passed]
    assert not failed, "\n".join(failed)


def test_a_wrong_schedule_fails_by_name():
    failed = {row.check for row in check_schedule(Late(), "late") if not row.passed}
    assert failed == {"alpha(0) = 1 and sigma(0) = 0", "time(log_snr(t)) = t"}


def test_scales_of_another_schedule_fail_by_name():
    failed = {row.check for row in check_schedule(Unscaled(), "unscaled") if not row.passed}
    assert "scales(log_snr(t)) = alpha, sigma" in failed


@pytest.mark.slow
def test_own_samplers_and_schedules_are_checked_alone_and_in_full():
    parts = []
    rows = verify.run({"mine": DDIM(eta=1.0)}, {"flow": SCHEDULES["rectified"]}, parts.append)
    assert parts == ["schedules and grids", "samplers on flow"]
    assert {row.subject for row in rows} == {"mine", ""}
    assert {"point mass", "other batch", "gaussian", "infinite steps"} <= {row.check for row in rows if row.subject}
    assert [row.subject for row in rows if row.check == POINT_CHECK] == ["mine", "mine"]
    assert all(row.passed for row in rows)


@pytest.mark.parametrize(("all_grids", "count"), [(False, 2), (True, 3 * 6)])
def test_all_grids_reaches_the_plan(all_grids, count):
    with (
        mock.patch.object(certificate, "check_schedules", return_value=[]),
        mock.patch.object(certificate, "check_samplers_on", return_value=[]) as check,
    ):
        verify.run({"mine": DDIM()}, {"flow": SCHEDULES["rectified"]}, all_grids=all_grids)
    assert len(check.call_args.args[3]) == count


def test_kinds_are_schedules():
    assert set(KINDS) < set(SCHEDULES)
