"""The networks in PyTorch are the same networks: as many parameters, and the same output for the same weights."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import torch_twins
from cases import NETWORKS, describe_twin, find_case

from diffusion_jax.interop.mnist import MNIST
from diffusion_jax.interop.pokemon import Pokemon
from diffusion_jax.interop.weights import transpose_kernel

torch = pytest.importorskip("torch", reason="pip install -e '.[benchmark]'")

INDEX = 7  # the time k of the comparison


def tensors(network):
    return {name: tensor.detach().double().numpy() for name, tensor in network.state_dict().items()}


def randomize(network):
    """Weights that are neither zero nor one, so that every layer has an effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_every_twin_has_as_many_parameters(name):
    if name in ("digits", "unet32", "cifar10", "tiny"):
        pytest.importorskip("diffusers")
    twin = describe_twin(find_case(name), steps=2)
    with torch.device("meta"):  # shapes alone
        assert torch_twins.count_parameters(torch_twins.build(twin)) == twin.parameters


def test_another_number_of_parameters_is_noticed():
    pytest.importorskip("diffusers")
    twin = describe_twin(find_case("tiny"), steps=2)
    twin.settings["block_out_channels"] = [8, 24]
    with pytest.raises(RuntimeError, match=r"parameters = [\d,]+: must be 45,097, those of the network in JAX"):
        torch_twins.build(twin)


def shrink(case, model, image_shape):
    return dataclasses.replace(case, model=model, image_shape=image_shape)


def compare(case, convert):
    """Largest difference of the two outputs, relative to the size of the output."""
    twin = describe_twin(case, steps=2)
    network = randomize(torch_twins.build(twin)).eval()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *case.image_shape)).astype(np.float32)
    labels = np.arange(2) % max(1, case.model.num_classes)
    with torch.inference_mode():
        inputs = torch.tensor(x.transpose(0, 3, 1, 2)), torch.full((2,), INDEX), torch.tensor(labels)
        theirs = network(*inputs).numpy().transpose(0, 2, 3, 1)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), convert(tensors(network), case))
    ours = networks.output(case.model, x, np.full(2, INDEX / case.model.time_scale, np.float32), labels, params)
    return np.abs(ours - theirs).max() / np.std(theirs)


def test_the_film_u_net_is_the_same():
    case = find_case("pokemon")
    model = case.model.clone(width=8, multipliers=(1, 2), attention=(8,))
    case = shrink(case, model, (16, 16, 3))
    assert compare(case, lambda theirs, case: Pokemon().convert(theirs, case.model, case.image_shape)) < 1e-4


def test_the_convnext_u_net_is_the_same():
    case = find_case("mnist_original")
    model = case.model.clone(channels=(4, 6, 8, 10), last_width=2, embedding_width=6)
    case = shrink(case, model, case.image_shape)
    assert compare(case, lambda theirs, case: MNIST().convert(theirs, case.model, case.image_shape)) < 1e-4


def test_a_stem_is_a_convolution_in_front():
    """The name of the stem is not one of the project, so it is converted by itself."""
    case = find_case("mnist")
    model = case.model.clone(channels=(4, 6, 8, 10), last_width=2, embedding_width=6)
    case = shrink(case, model, case.image_shape)

    def convert(theirs, case):
        weight, bias = theirs.pop("stem.weight"), theirs.pop("stem.bias")

        class WithStem(MNIST):
            def name_layer(self, layer, model):
                return "stem" if layer[0] == "stem" else super().name_layer(layer, model)

        return WithStem().convert(theirs | {"stem.weight": weight, "stem.bias": bias}, case.model, case.image_shape)

    assert compare(case, convert) < 1e-4


LAYERS = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "out": "to_out.0",
}
PLACES = {
    "time0": "time_embedding.linear_1",
    "time1": "time_embedding.linear_2",
    "classes": "class_embedding",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
    "mid_block0": "mid_block.resnets.0",
    "mid_block1": "mid_block.resnets.1",
    "mid_attention": "mid_block.attentions.0",
}


def name_diffusers(place, levels):
    """Our name of a layer as that of UNet2DModel, whose levels on the way up are counted from below."""
    if place in PLACES:
        return PLACES[place]
    way, level = place[: place.index("_")].rstrip("0123456789"), int(place[: place.index("_")].lstrip("downup"))
    part = place[place.index("_") + 1 :]
    where = f"down_blocks.{level}" if way == "down" else f"up_blocks.{levels - 1 - level}"
    if part == "sample":
        return f"{where}.{'down' if way == 'down' else 'up'}samplers.0.conv"
    number = part.removeprefix("block").removesuffix("_attention")
    return f"{where}.{'attentions' if part.endswith('_attention') else 'resnets'}.{number}"


def convert_unet(theirs, case):
    used = set()

    def leaf(path, parameter):
        place, *inside, kind = (key.key for key in path[1:])
        inside = [LAYERS[name] for name in inside if name in LAYERS]
        name = ".".join([name_diffusers(place, len(case.model.channels)), *inside])
        name = f"unet.{name}.{'bias' if kind == 'bias' else 'weight'}"
        used.add(name)
        return transpose_kernel(theirs[name], parameter.ndim) if kind == "kernel" else theirs[name]

    params = jax.tree_util.tree_map_with_path(leaf, networks.abstract(case.model, case.image_shape))
    assert used == set(theirs)
    return params


@pytest.mark.parametrize("padding", [0, 1])
def test_the_u_net_is_that_of_diffusers(padding):
    pytest.importorskip("diffusers")
    case = find_case("tiny")
    model = case.model.clone(downsample_padding=padding)
    assert compare(shrink(case, model, case.image_shape), convert_unet) < 1e-4


def test_lucidrains_network_is_about_as_large_and_called_another():
    pytest.importorskip("denoising_diffusion_pytorch")
    for name in NETWORKS:
        twin = describe_twin(find_case(name), steps=2)
        other = torch_twins.lucidrains_twin(twin)
        with torch.device("meta"):
            found = torch_twins.count_parameters(torch_twins.build(other))
        assert other.parameters == 0
        assert name == "tiny" or abs(found / twin.parameters - 1) < 0.1, (name, found)
