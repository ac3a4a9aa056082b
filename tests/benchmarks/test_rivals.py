"""The PyTorch side: rows of what is missing, and what its two loops compute."""

import sys

import pytest
import rivals
import torch_twins
from torch_twins import Twin, Unavailable

ALPHA, SIGMA = [1.0, 0.8, 0.6, 0.28], [0.0, 0.6, 0.8, 0.96]
SMALL = Twin("film", {}, (1, 2, 2), 3, ALPHA, SIGMA, [3, 1, 0], 1)


def test_without_pytorch_a_row_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for make in (rivals.train_contestants, rivals.sampling_contestants):
        (contestant,) = make(SMALL, 2, "float32", ["eager"], "cpu")
        with pytest.raises(Unavailable, match=r"not installed; pip install -e '.\[benchmark\]'"):
            contestant.prepare()


def test_without_a_package_of_a_network_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", None)
    for kind in ("unet", "lucidrains"):
        with pytest.raises(Unavailable, match="not installed"):
            torch_twins.build(Twin(kind, {}, (1, 2, 2), 0, ALPHA, SIGMA, [3, 0], 1))


def test_another_architecture_is_told_in_its_row():
    (contestant,) = rivals.train_contestants(SMALL, 2, "float32", ["lucidrains"], "cpu")
    assert "lucidrains" in contestant.name
    assert contestant.note.startswith("another architecture")
    assert contestant.is_rival


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="pip install -e '.[benchmark]'")


def test_a_device_that_pytorch_does_not_reach_is_a_row(torch):
    assert rivals.find_device(torch, "cpu").type == "cpu"
    with pytest.raises(Unavailable, match="finds no device for tpu"):
        rivals.find_device(torch, "tpu")


def test_without_a_compiler_there_is_no_torch_compile(torch, monkeypatch):
    monkeypatch.setattr(rivals.shutil, "which", lambda name: None)
    network = torch.nn.Linear(1, 1)
    with pytest.raises(Unavailable, match=r"needs a C\+\+ compiler"):
        rivals._arrange(torch, network, rivals.MODES["compile"])
    assert rivals._arrange(torch, network, rivals.MODES["eager"]) == (network, network)


@pytest.fixture
def network(torch, monkeypatch):
    """eps of images that are 0.5 everywhere, times a weight, and the arguments of its calls."""

    class Perfect(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.calls = torch.nn.Parameter(torch.ones(())), []

        def forward(self, x, k, labels):
            self.calls.append((x.dtype, k.tolist(), labels.tolist()))
            alpha, sigma = (torch.tensor(table)[k][:, None, None, None] for table in (ALPHA, SIGMA))
            return self.weight * (x - 0.5 * alpha) / sigma

    made = Perfect()
    monkeypatch.setattr(rivals, "build", lambda twin: made)
    return made


def results_of(monkeypatch, make, mode, dtype="float32"):
    """What one call returns."""
    found = []
    monkeypatch.setattr(rivals, "_repeat", lambda torch, device, call: lambda n: found.append(call()))
    make(2, dtype, "cpu")(SMALL, rivals.MODES[mode]).run(1)
    return found[0]


@pytest.mark.parametrize("mode", ["eager", "channels_last"])
def test_sampling_follows_the_grid_to_the_data(network, monkeypatch, mode):
    x = results_of(monkeypatch, rivals.make_sampling, mode)
    assert x.shape == (2, 1, 2, 2)
    assert (x - 0.5).abs().max() < 1e-6
    assert [k for _, k, _ in network.calls] == [[3, 3], [1, 1]]  # the step to data is the last
    assert all(0 <= label < 3 for _, _, labels in network.calls for label in labels)


def test_sampling_in_bfloat16_has_weights_in_bfloat16(torch, network, monkeypatch):
    results_of(monkeypatch, rivals.make_sampling, "eager", "bfloat16")
    assert network.weight.dtype == torch.bfloat16
    assert {dtype for dtype, _, _ in network.calls} == {torch.bfloat16}


def test_a_training_step_moves_the_weights_by_the_learning_rate(network, monkeypatch):
    """The first step of Adam is the learning rate; times are at least 1, because k = 0 is data without noise."""
    results_of(monkeypatch, rivals.make_train, "eager")
    assert abs(abs(network.weight.item() - 1) - 2e-4) < 1e-6
    assert all(1 <= k <= 3 for _, times, _ in network.calls for k in times)
