import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from oracles import quick_jit

import diffusion_jax as dj
from diffusion_jax.data.pipeline import in_order
from diffusion_jax.runtime.mesh import MeshShape, make_mesh
from diffusion_jax.training.evaluate import make_evaluate

KEY = 7


class PerLevel:
    """A network whose error is the time; its v-loss at time t is then t^2."""

    def apply(self, params, x, time, labels=None, **kwargs):
        return time[:, None, None, None] * np.ones(x.shape, np.float32) + params


class ZeroTarget(dj.predictions.V):
    def target(self, x0, eps, alpha, sigma):
        return 0 * x0


def evaluate(n: int, batch_size: int, shape: MeshShape, devices, params=0.0, draws=50):
    source = dj.sources.from_arrays(np.zeros((2 * n, 4, 4, 1), np.uint8), holdout=2)[1]
    schedule = dj.schedules.Cosine(1000)
    loss = dj.losses.DiffusionLoss(schedule, ZeroTarget())
    mesh = make_mesh(shape, devices[: shape.data * shape.fsdp])
    run = make_evaluate(PerLevel(), loss, mesh, draws=draws)
    return run(np.float32(params), in_order(source, batch_size), jax.random.key(KEY))


@pytest.mark.parametrize("shape", [MeshShape(1, 1), MeshShape(4, 2)], ids=str)
def test_loss_is_the_mean_over_times_in_all_and_in_each_bin(shape, devices):
    found = evaluate(16, 16, shape, devices)
    assert found["eval_loss"] == pytest.approx(1 / 3, abs=0.01)  # the integral of t^2
    schedule = dj.schedules.Cosine(1000)
    t = np.arange(1, 1001) / 1000
    log_snr = np.asarray(schedule.log_snr(t))
    bins = [name for name in found if name.startswith("eval_loss/")]
    # Six bins that leave no log-SNR out: four apart, the outer two open.
    edges = [name.removeprefix("eval_loss/log_snr_").split("_") for name in bins]
    assert edges == [["-inf", "-8"], ["-8", "-4"], ["-4", "0"], ["0", "4"], ["4", "8"], ["8", "inf"]]
    for name in bins:
        low, high = (float(edge) for edge in name.removeprefix("eval_loss/log_snr_").split("_"))
        inside = (log_snr >= low) & (log_snr < high)
        assert found[name] == pytest.approx((t[inside] ** 2).mean(), abs=0.02)


class ErrsByLabel:
    """A network whose error is 1 + label for every input."""

    def apply(self, params, x, time, labels=None, **kwargs):
        return np.ones(x.shape, np.float32) * (labels[:, None, None, None] + 1)


def evaluate_labels(held_out: list[int], batch_size: int, devices, label_drop=0.0) -> dict:
    labels = np.repeat(held_out, 2)  # every second one is held out
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    source = dj.sources.from_arrays(images, labels, holdout=2)[1]
    loss = dj.losses.DiffusionLoss(dj.schedules.Cosine(), ZeroTarget(), label_drop=label_drop)
    run = make_evaluate(ErrsByLabel(), loss, make_mesh(MeshShape(1, 1), devices[:1]))
    return run({}, in_order(source, batch_size), jax.random.key(KEY))


def test_the_example_that_fills_up_a_batch_does_not_count(devices):
    """Example 0 fills up; its loss of 100 would count four times."""
    found = evaluate_labels([9] + [0] * 12, 8, devices)
    assert found["eval_loss"] == pytest.approx((100 + 12) / 13)


def test_two_evaluations_differ_by_the_parameters_only(devices):
    first, again, other = (evaluate(8, 8, MeshShape(1, 1), devices, params, draws=2) for params in (0.0, 0.0, 1.0))
    assert first == again
    assert other["eval_loss"] > first["eval_loss"]


def test_every_batch_and_every_draw_has_times_and_noise_of_its_own(devices):
    """Draw d of batch i uses key number draws * i + d. All images are the same here, so only that matters."""
    mesh = MeshShape(1, 1)
    once, batches, both, draws = (
        evaluate(n, 8, mesh, devices, draws=draws)["eval_loss"] for n, draws in ((8, 1), (16, 1), (16, 2), (8, 4))
    )
    assert abs(batches - once) > 1e-3  # the second batch sees other times
    assert both == draws
    assert abs(evaluate(8, 8, mesh, devices, draws=2)["eval_loss"] - batches) < 1e-9


def test_labels_are_never_dropped(devices):
    """Dropped, each would count as label -1, with a loss of 0."""
    found = evaluate_labels([0, 1] * 5, 10, devices, label_drop=1.0)
    assert found["eval_loss"] == pytest.approx((1 + 4) / 2)


@pytest.mark.slow
def test_the_bound_of_a_hybrid_loss_is_reported_beside_its_squared_error(devices):
    """On the same images, times, noise and estimates as the two losses that it consists of."""
    hybrid = tiny.learning_loss()
    settings = {"label_drop": 0.0, "self_condition": 1.0}
    simple = dj.losses.DiffusionLoss(hybrid.schedule, hybrid.prediction, **settings)
    bound = dj.losses.VLBLoss(hybrid.schedule, hybrid.prediction, **settings)
    model, mesh = tiny.Learned(), make_mesh(MeshShape(1, 1), devices[:1])
    params = model.init(None, None, None, None)
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    source = dj.sources.from_arrays(images, np.arange(20) // 2 % 10, holdout=2)[1]
    evaluate = make_evaluate(model, hybrid, mesh, draws=1)
    found = evaluate(params, in_order(source, 10), jax.random.key(KEY))
    assert any(name.startswith("eval_loss/log_snr") for name in found)

    def predicts(*args, **kwargs):
        return model.apply(*args, **kwargs)[..., :1]

    @quick_jit
    def expected(key, batch):
        examples = simple.draw(key, batch)
        error = simple.per_example(predicts, params, examples)
        return error.mean(), bound.per_example(model.apply, params, examples).mean()

    batch, _ = next(iter(in_order(source, 10)))
    means = expected(jax.random.fold_in(jax.random.key(KEY), 0), batch)
    assert [found["eval_loss"], found["eval_vlb"]] == pytest.approx([float(x) for x in means], rel=1e-5)


# What is not finite


class FailsAt(PerLevel):
    """Not finite at times above `limit`."""

    def __init__(self, limit: float):
        self.limit = limit

    def apply(self, params, x, time, labels=None, **kwargs):
        error = time[:, None, None, None]
        return jnp.where(error > self.limit, jnp.nan, error) * jnp.ones(x.shape)


def evaluate_floats(model, images, batch_size, devices):
    batches = [({"image": part}, np.full(len(part), True)) for part in np.split(images, len(images) // batch_size)]
    loss = dj.losses.DiffusionLoss(dj.schedules.Cosine(1000), ZeroTarget())
    run = make_evaluate(model, loss, make_mesh(MeshShape(4, 1), devices[:4]))
    return run(np.float32(0), batches, jax.random.key(KEY))


class SeesImages(PerLevel):
    """An error that is 1 for images that are finite."""

    def apply(self, params, x, time, labels=None, **kwargs):
        return np.ones(x.shape, np.float32) + 0 * x


@pytest.mark.parametrize("broken", [[], [0], [3, 17], range(32)])
def test_a_held_out_image_that_is_not_finite_does_not_count(broken, devices, caplog):
    images = np.zeros((32, 4, 4, 1), np.float32)
    images[list(broken), 1, 2] = np.nan
    found = evaluate_floats(SeesImages(), images, 16, devices)
    assert found.get("eval_non_finite", 0) == len(broken)
    assert ("not finite" in caplog.text) == bool(broken)
    if len(broken) < 32:
        losses = [value for name, value in found.items() if "loss" in name]
        assert losses == pytest.approx([1.0] * len(losses))
    else:
        assert np.isnan(found["eval_loss"])


def test_a_network_that_fails_at_one_noise_level_shows_it_there_alone(devices):
    """Above time 0.9 the log-SNR of this schedule is below -3.7; the bins above have their values all the same."""
    images = np.zeros((64, 4, 4, 1), np.float32)
    sound = evaluate_floats(FailsAt(2.0), images, 32, devices)
    found = evaluate_floats(FailsAt(0.9), images, 32, devices)
    assert found["eval_non_finite"] > 0
    for name in ("eval_loss/log_snr_0_4", "eval_loss/log_snr_4_8"):
        assert found[name] == sound[name]
    assert "eval_loss/log_snr_-inf_-8" not in found
    assert np.isfinite(found["eval_loss"])


def test_the_host_reads_at_most_two_batches_ahead_of_the_device(devices, monkeypatch):
    """Emulated devices block each other where many programs wait, and a device would hold all the batches."""
    source = dj.sources.from_arrays(np.zeros((12, 4, 4, 1), np.uint8), holdout=2)[1]
    events, wait = [], jax.block_until_ready

    def batches():
        for batch in in_order(source, 1):
            events.append("read")
            yield batch

    def wait_for(values):
        events.append("wait")
        return wait(values)

    run = make_evaluate(PerLevel(), tiny.loss(), make_mesh(MeshShape(1, 1), devices[:1]), draws=1)
    monkeypatch.setattr(jax, "block_until_ready", wait_for)
    run(np.float32(0.0), batches(), jax.random.key(KEY))
    reads = [i for i, event in enumerate(events) if event == "read"]
    assert len(reads) == 6
    for k, i in enumerate(reads[2:]):
        assert events[:i].count("wait") > k
