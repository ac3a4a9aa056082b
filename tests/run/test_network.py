"""A network refuses inputs that it cannot take, before anything is compiled."""

import dataclasses

import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.run import Network


class Plain(tiny.Affine):
    """It says what it does not do, as the library's own networks do."""

    self_condition = learn_variance = False


def network(model=None, **changes) -> Network:
    made = Network(model or Plain(), dj.schedules.Cosine(50), dj.predictions.V(), (4, 4, 1), 10)
    return dataclasses.replace(made, **changes)


def test_labels_become_int32_and_no_labels_minus_one():
    rows = network().label_rows(3, [1, 9, 0])
    assert rows.dtype == np.int32
    assert rows.tolist() == [1, 9, 0]
    assert network().label_rows(2, None).tolist() == [-1, -1]
    assert network(num_classes=0, unlabelled=False).label_rows(2, None).tolist() == [-1, -1]


def test_labels_for_a_network_without_classes_are_refused():
    with pytest.raises(ValueError, match="trained without classes; leave them out"):
        network(num_classes=0).label_rows(1, [1])


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (dj.samplers.SelfConditioned(dj.samplers.DDPM()), "this network is not self-conditioned; use DDPM"),
        (dj.samplers.DDPM("learned"), 'DDPM.variance="learned".: this network does not learn it; use "small"'),
    ],
)
def test_a_sampler_that_the_network_says_it_cannot_serve_is_refused(sampler, message):
    with pytest.raises(ValueError, match=message) as error:
        network().adapt_sampler(sampler)
    assert "\n" not in str(error.value)
    assert network(tiny.Affine()).adapt_sampler(sampler) is sampler  # this one does not say


def test_a_self_conditioned_network_gets_its_sampler_once():
    ddim = dj.samplers.DDIM(0.5)
    wrapped = dj.samplers.SelfConditioned(ddim)
    learned = network(tiny.Learned())
    assert learned.adapt_sampler(ddim) == learned.adapt_sampler(wrapped) == wrapped
    assert network().adapt_sampler(ddim) is ddim


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (8, 8, 1)}, r"weaker: its image_shape is \(8, 8, 1\), this run's is \(4, 4, 1\); both must"),
        ({"num_classes": 0}, "weaker: its num_classes is 0, this run's is 10"),
        ({"schedule": dj.schedules.Cosine(60)}, r"weaker: its schedule is Cosine\(steps=60"),
        ({"model": tiny.Learned()}, "weaker: its self_condition is True, this run's is False"),
    ],
)
def test_a_weaker_network_that_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        network().check_weaker(network(**changes), 2, labelled=True)
    assert "\n" not in str(error.value)


def test_a_weaker_network_that_always_had_labels_needs_them():
    always = network(unlabelled=False)
    network().check_weaker(always, 2, labelled=True)
    with pytest.raises(ValueError, match="weaker: was never trained without labels; give 2, one per image"):
        network().check_weaker(always, 2, labelled=False)
