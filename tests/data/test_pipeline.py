import itertools

import numpy as np
import pytest
from prepared import one_line

from diffusion_jax.data.pipeline import Batches, in_order
from diffusion_jax.data.sources import DataError, Source

N = 23


def numbered(n=N, labels=True):
    """Image i has i + 1 in its left column and 0 elsewhere, so that it shows whether it was mirrored."""
    rows = []
    for i in range(n):
        image = np.zeros((4, 3, 1), np.uint8)
        image[:, 0] = i + 1
        rows.append({"image": image} | ({"label": np.int32(i % 7)} if labels else {}))
    return Source(rows, (4, 3, 1), 7 if labels else 0, (), "numbered")


def indices(images):
    return images.max(axis=(1, 2, 3)).astype(int) - 1


def mirrored(images):
    return images[:, 0, -1, 0] > 0


def take(batches, n, start=0):
    return list(itertools.islice(batches.iterate(start), n))


def order(batches, n):
    """The examples in the first n batches, one after the other."""
    return np.concatenate([indices(batches[k]["image"]) for k in range(n)])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("start", [0, 1, 4, 5, 1000])
def test_batch_k_does_not_depend_on_where_reading_starts(start, seed, flip):
    """Exact resuming relies on this."""
    batches = Batches(numbered(), 5, seed=seed, flip=flip)
    for k, batch in enumerate(take(batches, 3, start), start):
        assert_same(batch, batches[k])


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 8), (8, 32)])
def test_threads_do_not_change_the_batches(threads, ahead):
    batches = Batches(numbered(), 5, flip=True)
    read = itertools.islice(batches.iterate(2, threads, ahead), 12)
    for k, batch in enumerate(read, 2):
        assert_same(batch, batches[k])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 23, 60])
def test_each_epoch_has_each_example_once_in_a_different_order(batch_size):
    """Also if batches continue across the end of an epoch, or hold several epochs."""
    seen = order(Batches(numbered(), batch_size), -(-4 * N // batch_size))[: 4 * N]
    epochs = seen.reshape(4, N)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(N), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert tuple(range(N)) not in {tuple(epoch) for epoch in epochs}


def test_every_batch_is_full():
    assert {len(batch["image"]) for batch in take(Batches(numbered(), 5), 20)} == {5}


def test_seeds_give_different_orders_and_the_same_seed_the_same():
    orders = {seed: tuple(order(Batches(numbered(), N, seed=seed), 1)) for seed in range(5)}
    assert len(set(orders.values())) == 5
    assert tuple(order(Batches(numbered(), N, seed=3), 1)) == orders[3]


def test_the_batch_size_does_not_change_the_order():
    np.testing.assert_array_equal(order(Batches(numbered(), 4), 15), order(Batches(numbered(), 6), 10))


def test_an_image_keeps_its_label():
    for batch in take(Batches(numbered(), 5, flip=True), 10):
        np.testing.assert_array_equal(batch["label"], indices(batch["image"]) % 7)


def test_images_are_uint8_and_labels_int32():
    batch = Batches(numbered(), 5, flip=True)[0]
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (5, 4, 3, 1))
    assert (batch["label"].dtype, batch["label"].shape) == (np.int32, (5,))


def test_a_source_without_labels_yields_images_only():
    assert Batches(numbered(labels=False), 5)[0].keys() == {"image"}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_parts_of_the_processes_are_the_global_batch(processes, flip):
    whole = Batches(numbered(), 8, seed=3, flip=flip)
    parts = [Batches(numbered(), 8, seed=3, flip=flip, process=p, processes=processes) for p in range(processes)]
    streams = zip(*(take(part, 5, 2) for part in parts), strict=True)
    for k, pieces in enumerate(streams, 2):
        assert {len(piece["image"]) for piece in pieces} == {8 // processes}
        joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        assert_same(joined, whole[k])


def flips(batches, epochs, n):
    """Whether each example was mirrored in each epoch, bool [epochs, n], by example."""
    batch = np.concatenate([batches[k]["image"] for k in range(epochs)])
    rows = np.empty((epochs, n), bool)
    for epoch in range(epochs):
        part = batch[epoch * n : (epoch + 1) * n]
        rows[epoch, indices(part)] = mirrored(part)
    return rows


def test_half_of_the_images_are_mirrored_drawn_again_in_each_epoch():
    n, epochs = 200, 4
    rows = flips(Batches(numbered(n), n, flip=True), epochs, n)
    assert (np.abs(rows.mean(axis=1) - 0.5) < 5 * 0.5 / np.sqrt(n)).all()
    for a, b in itertools.combinations(rows, 2):  # independent: equal half of the time
        assert abs((a == b).mean() - 0.5) < 5 * 0.5 / np.sqrt(n)


def test_flips_differ_with_the_seed():
    a, b = (flips(Batches(numbered(200), 200, seed=s, flip=True), 1, 200) for s in (0, 1))
    assert 0.3 < (a == b).mean() < 0.7


def test_nothing_is_mirrored_by_default():
    assert not any(mirrored(b["image"]).any() for b in take(Batches(numbered(), 5), 20))


def test_mirroring_is_left_to_right():
    image = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
    source = Source([{"image": image}] * 40, (4, 3, 2), 0, (), "same")
    seen = {x.tobytes() for x in Batches(source, 40, flip=True)[0]["image"]}
    turned = np.stack([image[:, 2], image[:, 1], image[:, 0]], axis=1)
    assert seen == {image.tobytes(), turned.tobytes()}


def test_flipping_leaves_the_order_alone():
    np.testing.assert_array_equal(order(Batches(numbered(), 5), 10), order(Batches(numbered(), 5, flip=True), 10))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "batch_size = 0: must be an integer >= 1"),
        ({"batch_size": -8}, "batch_size = -8: must be an integer >= 1"),
        ({"batch_size": 6, "processes": 4}, "processes = 4: must divide batch_size = 6"),
        ({"batch_size": 3, "processes": 2}, "processes = 2: must divide batch_size = 3"),
        ({"batch_size": 4, "process": 2, "processes": 2}, "process = 2: must be below processes = 2"),
        ({"batch_size": 4, "process": -1}, "process = -1: must be an integer >= 0"),
        ({"batch_size": 4, "processes": 0}, "processes = 0: must be an integer >= 1"),
    ],
)
def test_wrong_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Batches(numbered(), **settings)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="empty"):
        Batches(numbered(0), 4)


SOUND = {"image": np.zeros((4, 3, 1), np.uint8), "label": np.int32(3)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": np.uint64(2**40)}, "label = 1099511627776: must be an integer from 0 to 6"),
        ({"label": 7}, "label = 7: must be an integer"),
        ({"label": np.int64(-1)}, "label = -1: must be an integer"),
        ({"label": 2.0}, "label = 2.0: must be an integer"),
        ({"label": True}, "label = True: must be an integer"),
        ({"label": np.array([3])}, r"label = \[\d+\]: must be an integer"),
        ({"image": np.full((4, 3, 1), 300)}, r"image = an array int64\[4, 3, 1\]: must be uint8\[4, 3, 1\]"),
        ({"image": np.zeros((4, 3, 1))}, r"image = an array float64\[4, 3, 1\]: must be uint8"),
        ({"image": np.zeros((3, 4, 1), np.uint8)}, r"image = an array uint8\[3, 4, 1\]: must be uint8\[4, 3, 1\]"),
    ],
)
def test_an_example_that_would_lose_its_values_is_refused_in_one_line(change, says):
    """In training and in evaluation; a user's own source may return anything."""
    source = Source([SOUND, SOUND | change], (4, 3, 1), 7, (), "mine")
    for read in (lambda: next(Batches(source, 2).iterate()), lambda: list(in_order(source, 2))):
        with pytest.raises(DataError, match=f"^example 1: {says}") as error:
            read()
        one_line(error)


def test_float_images_are_used_as_they_are():
    image = np.float32([[[-1.0]] * 3, [[0.3]] * 3, [[np.nan]] * 3, [[1.0]] * 3])
    source = Source([{"image": image}], (4, 3, 1), 0, (), "mine")
    np.testing.assert_array_equal(Batches(source, 1)[0]["image"], image[None], strict=True)


def test_labels_of_other_integer_types_become_int32():
    source = Source([SOUND | {"label": label} for label in (6, np.uint8(6), np.int64(6))], (4, 3, 1), 7, (), "mine")
    labels = Batches(source, 3)[0]["label"]
    assert (labels.dtype, labels.tolist()) == (np.int32, [6, 6, 6])


@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_in_order_shows_every_example_once(batch_size):
    batches = list(in_order(numbered(), batch_size))
    assert len(batches) == -(-N // batch_size)
    seen = np.concatenate([indices(batch["image"])[valid] for batch, valid in batches])
    np.testing.assert_array_equal(seen, np.arange(N))
    for batch, valid in batches:
        assert len(batch["image"]) == len(batch["label"]) == len(valid) == batch_size
        np.testing.assert_array_equal(batch["label"], indices(batch["image"]) % 7)
    assert all(valid.all() for _, valid in batches[:-1])


def test_in_order_of_an_empty_source_is_empty():
    assert list(in_order(numbered(0), 4)) == []
