import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files

import diffusion_jax as dj
from diffusion_jax import interop
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.config.sections import SECTIONS


def film(**settings):
    return torch_files.float32(torch_files.filled(torch_files.film_shapes(**settings)))


def convnext():
    return torch_files.float32(torch_files.filled(torch_files.convnext_shapes()))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Settings, weights and optimizer state in one file, as the Pokemon project writes it."""
    tensors = film()
    content = {
        "net": {"config": {"dim": 8}, "state_dict": torch_files.state_dict(tensors)},
        "optim": {"state": {0: {"exp_avg": tensors["init_conv.weight"]}}, "param_groups": [{"lr": 2e-4}]},
        "itr": 100_000,
    }
    return torch_files.save(tmp_path_factory.mktemp("theirs") / "ckpt.pt", content)


def test_a_nested_checkpoint_is_found(checkpoint):
    imported = interop.load(checkpoint, image_size=8)
    assert imported.image_shape == (8, 8, 3)
    assert imported.schedule == dj.schedules.Cosine(steps=100, min_beta=1e-4, max_beta=0.9999)
    assert imported.prediction == dj.predictions.Eps()
    assert {leaf.dtype for leaf in jax.tree.leaves(imported.params)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_a_plain_state_dict_is_loaded_and_needs_labels(tmp_path):
    path = torch_files.save(tmp_path / "mnist.pt", torch_files.state_dict(convnext()))
    imported = interop.load(path, image_size=12)
    assert imported.image_shape == (12, 12, 1)
    assert imported.schedule == dj.schedules.Cosine(steps=20, max_beta=0.999)
    with pytest.raises(interop.InteropError, match="labels = None: this network needs one of its 3 classes"):
        imported.denoiser()
    seen = []
    spied = dataclasses.replace(imported, model=Spy(seen))
    spied.denoiser(labels=[0, 2])(jnp.ones((2, 12, 12, 1)), jnp.float32(0.5))
    ((params, time, labels),) = seen
    assert params is imported.params
    np.testing.assert_array_equal(time, [0.5, 0.5])
    np.testing.assert_array_equal(labels, [0, 2])


class Spy:
    """A network that records its arguments."""

    num_classes = 3

    def __init__(self, seen):
        self.seen = seen

    def apply(self, params, x, time, labels):
        self.seen.append((params, time, labels))
        return x


def test_a_network_without_classes_refuses_labels(checkpoint):
    with pytest.raises(interop.InteropError, match="labels must be None: this network has no classes; leave them out"):
        interop.load(checkpoint).denoiser(labels=[0])


def test_wrapped_and_half_precision_weights_are_the_same_network(checkpoint, tmp_path):
    wanted = interop.load(checkpoint).params
    wrapped = {f"_orig_mod.module.{name}": tensor for name, tensor in film().items()}
    found = interop.load(torch_files.save(tmp_path / "wrapped.pt", {"ema": wrapped})).params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in film().items()}
    found = interop.load(torch_files.save(tmp_path / "half.pt", half)).params
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), found, wanted)


@pytest.mark.parametrize("tensors", [film(), convnext()], ids=["film", "convnext"])
def test_the_config_is_complete_and_builds_the_same(tensors, tmp_path):
    imported = interop.load(torch_files.save(tmp_path / "ckpt.pt", tensors))
    assert {*imported.config, "mesh"} == set(SECTIONS)
    built = Experiment.from_config(imported.config, imported.image_shape, imported.model.num_classes)
    assert built.network.model == imported.model
    assert built.network.schedule == imported.schedule
    assert built.network.prediction == imported.prediction


def refusal(path, **arguments) -> str:
    """The message, of one line, with which `load` refuses a file."""
    with pytest.raises(interop.InteropError) as error:
        interop.load(path, **arguments)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image_size": 65}, "images must be divisible by 2, got 65x65"),
        ({"image_size": 0}, "image_size = 0: must be an integer >= 1"),
        ({"image_size": 64.0}, "image_size = 64.0: must be an integer >= 1"),
        ({"steps": 0}, "steps = 0: must be an integer >= 1"),
        ({"steps": "100"}, "steps = '100': must be an integer >= 1"),
        ({"heads": 3}, "heads = 3: must divide the 8 channels of attention"),
        ({"heads": 0}, "heads = 0: must be an integer >= 1"),
        ({"heads": True}, "heads = True: must be an integer >= 1"),
        ({"groups": -4}, "groups = -4: must be an integer >= 1"),
        ({"groups": 3}, "groups = 3: must divide width = 8"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, said, checkpoint):
    assert said in refusal(checkpoint, **arguments)


@pytest.mark.parametrize("name", ["heads", "groups"])
def test_settings_of_the_other_network_are_refused(name, tmp_path):
    path = torch_files.save(tmp_path / "mnist.pt", convnext())
    assert f"{name} = 1: this network always has 1; leave the setting out" in refusal(path, **{name: 1})


FILM_CHANGES = {
    "missing": ("mid.attn.fn.proj.bias", None, "tensor mid.attn.fn.proj.bias is missing"),
    "missing setting": ("mid.attn.fn.to_qkv.weight", None, "to_qkv.weight is missing: must have 2 dimensions"),
    "left over": ("ups.7.us.1.bias", np.ones(3, np.float32), "ups.7.us.1.bias has no place in the network"),
    "odd name": ("a\nb", np.ones(3, np.float32), "tensor 'a\\nb' has no place"),
    "no text": (7, np.ones(3, np.float32), "tensor 7 has no place"),
    "other shape": (
        "downs.0.conv.conv2.0.weight",
        np.ones((8, 9, 3, 3), np.float32),
        "tensor downs.0.conv.conv2.0.weight has shape (8, 9, 3, 3), which does not fit "
        "down0_block0/conv2/kernel (3, 3, 8, 8)",
    ),
    "not 1x1": (
        "final_conv.weight",
        np.ones((3, 8, 3, 3), np.float32),
        "final_conv.weight has shape (3, 8, 3",
    ),
    "other rank": ("time_emb.1.weight", np.ones(8, np.float32), "tensor time_emb.1.weight has shape (8,)"),
    "odd qkv": ("downs.1.attn.fn.to_qkv.weight", np.ones((25, 16), np.float32), "has shape (25, 16)"),
    "other width": (
        "downs.1.conv.conv1.weight",
        np.ones((9, 8, 3, 3), np.float32),
        "9 channels: must be a multiple of the first layer's 8",
    ),
    "integers": ("init_conv.bias", np.ones(8, np.int64), "tensor init_conv.bias is int64: must be floating point"),
    "not finite": (
        "init_conv.bias",
        np.full(8, np.nan, np.float32),
        "init_conv.bias has values that are not",
    ),
    "no tensor": ("init_conv.bias", [1.0] * 8, "tensor init_conv.bias is missing"),
}


@pytest.mark.parametrize("case", FILM_CHANGES)
def test_a_tensor_that_does_not_fit_is_named(case, tmp_path):
    name, value, said = FILM_CHANGES[case]
    tensors = film() | {name: value}
    if value is None:
        tensors.pop(name)
    assert said in refusal(torch_files.save(tmp_path / "ckpt.pt", tensors))


def test_a_file_with_two_networks_is_refused_and_they_are_named(tmp_path):
    content = {"net": {"state_dict": film()}, "ema": convnext()}
    path = torch_files.save(tmp_path / "ckpt.pt", content)
    assert "has 2 networks, ema, net/state_dict; save only the one to import" in refusal(path)


def test_a_file_without_a_known_network_is_refused(tmp_path):
    content = {"weight": np.ones(3, np.float32), "list": [film()], "me": {}}
    content["me"]["me"] = content
    path = torch_files.save(tmp_path / "ckpt.pt", content)
    assert "has no network of a known project: neither tensor init_conv.weight nor class_emb.weight" in refusal(path)


def test_a_network_in_deeply_nested_dicts_is_found(tmp_path):
    """Without recursion: 5 000 dicts are more than Python's stack holds."""
    data, storages = torch_files.pickled(film())
    depth = 5_000
    deep = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + data[2:-1] + b"s" * depth + b"."
    imported = interop.load(torch_files.write_zip(tmp_path / "ckpt.pt", deep, storages))
    assert imported.model.width == 8


def test_the_mnist_network_generates_images_of_its_classes(tmp_path):
    """From the file to images, with the labels of each."""
    imported = interop.load(torch_files.save(tmp_path / "mnist.pt", convnext()), image_size=12)
    shape, key = (2, *imported.image_shape), jax.random.key(0)

    @jax.jit
    def generate(labels):
        denoise = dj.clipped(imported.denoiser(labels), imported.schedule)
        return dj.sample(key, denoise, imported.schedule, shape, sampler=dj.samplers.DDIM(), steps=2)

    x, other = np.asarray(generate(jnp.array([0, 2]))), np.asarray(generate(jnp.array([0, 1])))
    assert x.shape == shape
    assert np.isfinite(x).all()
    assert x.std() > 0.1
    np.testing.assert_array_equal(x[0], other[0])
    assert np.abs(x[1] - other[1]).max() > 1e-3
