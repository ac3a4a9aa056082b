"""Runs that start from the weights of others."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.interop.run_directory import write_run
from diffusion_jax.training.state import TrainState
from diffusion_jax.workdir.initial import compare_weights, fill_params, start_from
from diffusion_jax.workdir.load import find_weights

HELD = {"checkpoint_every": 0, "eval_every": 0, "log_every": 1, "batch_size": 8}


def config(model=tiny.AFFINE, **train):
    config = tiny.config(model, **(HELD | {"steps": 3} | train))
    return config | {"optimizer": {"name": "sgd", "lr_schedule": 0.1}}


def frozen(model=tiny.AFFINE, **train):
    """One step at learning rate 0: the parameters of its checkpoint are those that it started from."""
    start = config(model, **({"steps": 1} | train))
    return start | {"optimizer": {"name": "sgd", "lr_schedule": {"name": "constant_schedule", "value": 0.0}}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    dj.train(config(), workdir)
    return workdir


def load_params(workdir) -> dict:
    return jax.device_get(dj.load(workdir, allow_code=True).params)


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("kind", ["run", "file", "imported"])
def test_a_run_starts_from_the_averaged_weights_of_another(kind, trained, tmp_path):
    source = {"run": trained}.get(kind, tmp_path / {"file": "weights.safetensors"}.get(kind, "theirs"))
    if kind == "file":
        dj.export(dj.load(trained, allow_code=True), source)
    if kind == "imported":
        theirs = config({"name": "tiny:Numbered", "num_classes": 10})
        write_run(source, theirs, load_params(trained), (8, 8, 1), "ckpt.pt")
    dj.train(frozen(init_from=str(source)), tmp_path / "new")
    assert equal(load_params(tmp_path / "new"), load_params(trained))
    assert not equal(load_params(trained), tiny.Affine().init(None, None, None, None))


def align(array):
    """A copy of `array` that starts at a multiple of 64 bytes, where the CPU device can use the memory in place."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def test_the_parameters_and_their_average_start_from_them(trained):
    classes = align(np.arange(11, dtype=np.float32))
    weights = {"w": np.float32(0.5), "u": np.float32(0.25), "classes": classes}
    tx = optax.contrib.schedule_free_sgd(0.1)  # keeps a copy of the parameters
    state = TrainState.create(jax.random.key(0), tiny.Affine(), tx, (4, 4, 1))
    started = start_from(state, weights, tx)
    assert equal(started.params, weights)
    assert equal(started.ema_params, weights)
    assert equal(started.opt_state.z, weights)
    rest = [dataclasses.replace(each, params=(), ema_params=(), opt_state=()) for each in (state, started)]
    assert equal(*rest)
    arrays = jax.tree.leaves((started.params, started.ema_params, started.opt_state))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in arrays]
    assert len(set(buffers)) == len(buffers)  # the training step donates them
    classes[:] = 0.0
    assert started.params["classes"].tolist() == started.ema_params["classes"].tolist() == [*range(11)]


def test_a_run_that_has_begun_goes_on_from_its_own_checkpoint(trained, tmp_path):
    source = tmp_path / "weights.safetensors"
    dj.export(dj.load(trained, allow_code=True), source)
    dj.train(config(init_from=str(source)), tmp_path / "new")
    source.unlink()
    dj.train(config(init_from=str(source), steps=4), tmp_path / "new")
    assert dj.load(tmp_path / "new", allow_code=True).step == 4


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same_weights(trained, tmp_path):
    source = tmp_path / "weights.safetensors"
    dj.export(dj.load(trained, allow_code=True), source)
    plan = frozen(init_from=str(source), steps=2)
    assert not dj.train(plan, tmp_path / "new", should_stop=lambda: True)
    assert dj.load(tmp_path / "new", allow_code=True).step == 0
    dj.export(dataclasses.replace(dj.load(trained, allow_code=True), params={"w": 9.0}), source)
    dj.train(plan, tmp_path / "new")
    assert equal(load_params(tmp_path / "new"), load_params(trained))


def test_what_does_not_fit_is_refused_or_starts_anew(trained, tmp_path):
    other = config({"name": "tiny:ThreeClasses"}, init_from=str(trained))
    data = (np.zeros((60, 8, 8, 1), np.uint8), np.arange(60) % 3)
    with pytest.raises(ConfigError, match=r"1 parameters do not fit \(classes is \(11,\), here \(4,\)\)") as error:
        dj.train(other, tmp_path / "new", data)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    partial = frozen({"name": "tiny:ThreeClasses"}, init_from=str(trained), init_partial=True)
    dj.train(partial, tmp_path / "new", data)
    found, source = load_params(tmp_path / "new"), load_params(trained)
    assert (found["w"], found["u"]) == (source["w"], source["u"])
    np.testing.assert_array_equal(found["classes"], np.zeros(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "nowhere"}, 'config.train.init_from = "nowhere": no checkpoint in nowhere'),
        (
            {"init_from": "pretrained:dogs"},
            'config.train.init_from = "pretrained:dogs": pretrained = "dogs": must be one of "digits", "mnist"',
        ),
        ({"init_from": "pretrained:digits", "init_partial": True}, "no parameter fits"),
        ({"init_from": "nowhere.safetensors"}, 'config.train.init_from = "nowhere.safetensors": there is no file'),
        ({"init_partial": True}, "init_partial = True: needs init_from"),
        ({"init_from": 3}, "config.train.init_from = 3: must be of type str"),
    ],
)
def test_a_wrong_start_is_refused_before_anything_is_made(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        dj.train(config(**changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_weights_are_compared_by_name_and_shape():
    here = {"a": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)}, "c": np.zeros(())}
    weights = {"a/kernel": np.ones((2, 3)), "a/bias": np.ones(4), "b": np.ones(1)}
    assert compare_weights(weights, here) == {
        "a/bias": "a/bias is (4,), here (3,)",
        "b": "b is (1,), here missing",
        "c": "c is missing, here ()",
    }
    filled = fill_params(weights, jax.tree.map(jax.numpy.asarray, here))
    assert equal(filled, {"a": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}, "c": np.zeros(())})


def test_a_conditional_network_is_fine_tuned_to_other_classes(tmp_path):
    """The shipped digits, to three classes of other images: all but the table of classes is theirs."""
    pretrained = dj.pretrained("digits").params["params"]
    small = {"steps": 1, "batch_size": 8, "checkpoint_every": 0, "eval_every": 0, "sample_every": 0}
    fine_tuning = dj.configs.digits(
        **small,
        init_from="pretrained:digits",
        init_partial=True,
        model={"num_classes": 3},
        optimizer={"name": "sgd", "lr_schedule": {"name": "constant_schedule", "value": 0.0}},
        sampler={"steps": 1},
    )
    dj.train(fine_tuning, tmp_path, (np.zeros((60, 8, 8, 1), np.uint8), np.arange(60) % 3))
    found = dj.load(tmp_path).params["params"]
    assert found["classes"]["Embed_0"]["embedding"].shape == (4, 128)
    assert equal({**found, "classes": ()}, {**pretrained, "classes": ()})


@pytest.mark.parametrize("kind", ["a file that cannot be read", "a run in a directory that cannot be read"])
def test_weights_that_the_system_does_not_read_are_one_line_with_the_field(kind, tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied", "somewhere")

    (tmp_path / "mine.safetensors").write_bytes(b"")
    function = "read_weights" if kind.startswith("a file") else "_find_source"
    monkeypatch.setitem(find_weights.__globals__, function, refuse)  # `workdir.load` is a function
    with pytest.raises(ConfigError, match=r"^config\.train\.init_from = \".*mine.safetensors\": .*Permission denied"):
        find_weights("config.train.init_from", tmp_path / "mine.safetensors")
