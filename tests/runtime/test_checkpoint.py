import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoints import large, placed
from slow import slow

from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError

# When Orbax meets damaged files it leaves coroutines that warn when they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)
TMP = ".orbax-checkpoint-tmp"


@pytest.fixture(autouse=True)
def quiet():
    """Orbax logs every thread."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module", autouse=True)
def collected():
    """What Orbax leaves behind is collected here, not in the tests of another file."""
    yield
    gc.collect()


def small(step):
    """Two items that differ from step to step; the arrays are large enough to get files of their own."""
    rng = np.random.default_rng(step)
    return {
        "ema_params": {"w": jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)},
        "rest": {
            "opt": optax.ScaleByAdamState(
                count=jnp.int32(step),
                mu={"w": jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)},
                nu={"w": jnp.asarray(rng.normal(size=9), jnp.float32)},
            )
        },
    }


def abstract(items, sharding=None):
    def leaf(x, s):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)

    if sharding is None:
        sharding = jax.tree.map(lambda x: x.sharding, items)
    return jax.tree.map(leaf, items, sharding)


def raw(x):
    x = np.asarray(x)
    return x.shape, str(x.dtype), x.tobytes()


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jax.tree.map(raw, found) == jax.tree.map(raw, expected)


def write(folder, steps, keep=9):
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, small(step), {"step": step})


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A directory with the checkpoints 1, 2 and 3, to be copied."""
    folder = tmp_path_factory.mktemp("three")
    write(folder, (1, 2, 3))
    return folder


@pytest.fixture
def copy(three, tmp_path):
    """Makes a new copy of the three checkpoints at each call."""
    numbers = iter(range(10_000))

    def make():
        return shutil.copytree(three, tmp_path / f"copy{next(numbers)}")

    return make


def content(folder):
    """Every file of a directory with its bytes, and every empty directory."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


def restore(folder, read_only=False):
    with Checkpoints(folder, read_only=read_only) as checkpoints:
        return checkpoints.restore(abstract(small(0)))


# --- what is saved is restored ---------------------------------------------------------------


def every_dtype():
    rng = np.random.default_rng(0)
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    return {
        "odd": jnp.asarray(odd),
        "int32": jnp.asarray(rng.integers(-(2**31), 2**31, 300), jnp.int32),
        "uint32": jnp.asarray(rng.integers(0, 2**32, 300), jnp.uint32),
        "uint8": jnp.arange(256, dtype=jnp.uint8).reshape(2, 128),
        "bool": jnp.asarray(rng.random(300) < 0.5),
        "bfloat16": jnp.asarray(rng.normal(size=(7, 30)), jnp.bfloat16),
        "float16": jnp.asarray(rng.normal(size=(7, 30)), jnp.float16),
        "scalar": jnp.float32(np.pi),
    }


def test_all_dtypes_and_optax_states_come_back_bit_for_bit(tmp_path):
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(30, 40)), jnp.float32)}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    _, opt_state = tx.update(params, tx.init(params), params)
    items = {"ema_params": params, "rest": {"opt_state": opt_state, "leaves": every_dtype()}}
    description = {"config": {"a": [1, 2.5, None, "ü"], "b": True}, "classes": []}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, items, description)
    with Checkpoints(tmp_path) as checkpoints:
        step, restored, about = checkpoints.restore(abstract(items))
        assert checkpoints.describe() == description
    assert (step, about) == (7, description)
    assert_same_bits(restored, items)


def test_one_item_can_be_read_without_the_other(copy):
    with Checkpoints(copy(), read_only=True) as checkpoints:
        step, restored, _ = checkpoints.restore({"ema_params": abstract(small(0))["ema_params"]})
    assert step == 3
    assert_same_bits(restored, {"ema_params": small(3)["ema_params"]})


def test_the_newest_is_restored(copy):
    step, restored, about = restore(copy())
    assert (step, about) == (3, {"step": 3})
    assert_same_bits(restored, small(3))


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_few_are_kept(tmp_path, keep):
    with Checkpoints(tmp_path, keep) as checkpoints:
        for step in (1, 2, 5, 10, 100):
            checkpoints.save(step, small(step), {})
    kept = [1, 2, 5, 10, 100][-keep:]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == kept
    assert {path.name for path in tmp_path.iterdir()} == {str(step) for step in kept}


def test_without_a_checkpoint_there_is_an_error(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        for call in (checkpoints.describe, lambda: checkpoints.restore(abstract(small(0)))):
            with pytest.raises(CheckpointError, match="no checkpoint in .*train first"):
                call()


def test_reading_creates_no_directory(tmp_path):
    with (
        Checkpoints(tmp_path / "none", read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="no checkpoint in"),
    ):
        checkpoints.describe()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        (
            jax.ShapeDtypeStruct((40, 50), jnp.bfloat16),
            r"bfloat16, was saved as \(40, 50\) float32",
        ),
        (
            jax.ShapeDtypeStruct((50, 40), jnp.float32),
            r"\(50, 40\) float32, was saved as \(40, 50\)",
        ),
        (jax.ShapeDtypeStruct((2000,), jnp.float32), r"\(2000,\) float32, was saved as \(40, 50\)"),
    ],
)
def test_another_dtype_or_shape_is_refused(copy, leaf, says):
    """Orbax casts silently."""
    folder = copy()
    before = content(folder)
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match=says):
        checkpoints.restore({"ema_params": {"w": leaf}})
    assert content(folder) == before


def test_a_missing_or_additional_leaf_is_refused(copy):
    w = abstract(small(0))["ema_params"]["w"]
    for target in ({}, {"w": w, "b": w}, {"v": w}):
        with Checkpoints(copy()) as checkpoints, pytest.raises(CheckpointError):
            checkpoints.restore({"ema_params": target})


# --- damage ----------------------------------------------------------------------------------


def data_files(folder, step=3):
    """All files of a step: the arrays and Orbax's own."""
    files = [path for path in (folder / str(step)).glob("*/**/*") if path.is_file()]
    assert len(files) > 15
    return sorted(path.relative_to(folder) for path in files)


def survives(folder, caplog):
    """Restores from a directory whose step 3 may be damaged, and returns whether the damage was noticed.

    In both cases the restored values must be the same bits, and a damaged step logged, moved and not deleted.
    """
    damaged = content(folder / "3")
    caplog.clear()
    step, restored, about = restore(folder)
    assert_same_bits(restored, small(step))
    assert about == {"step": step}
    if step == 3:
        assert caplog.records == []
        return False
    assert step == 2
    (record,) = [r for r in caplog.records if r.name == Checkpoints.__module__]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("checkpoint 3 is damaged and skipped: ")
    assert "\n" not in record.getMessage()
    assert not (folder / "3").exists()
    assert content(folder / "damaged" / "3") == damaged
    return True


def flip(path, position, bit):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_harmless_or_noticed(copy, caplog):
    """In Orbax alone most flipped bits of the array files restore silently wrong: the fingerprints find them."""
    rng = np.random.default_rng(0)
    noticed, by_fingerprint = 0, 0
    for name in data_files(copy()):
        size = (copy() / name).stat().st_size
        places = {size // 3, size - 1} if size < 4000 else set(rng.integers(0, size, 6).tolist())
        for position in sorted(places):
            folder = copy()
            flip(folder / name, position, int(rng.integers(8)))
            noticed += survives(folder, caplog)
            by_fingerprint += "fingerprint of" in caplog.text
            shutil.rmtree(folder)
    assert noticed > 20
    assert by_fingerprint > 5


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        *slow(
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(bytes(path.stat().st_size)),
            lambda path: path.unlink(),
        ),
    ],
    ids=["cut in half", "emptied", "zeroed", "deleted"],
)
def test_a_file_cut_emptied_zeroed_or_deleted_is_harmless_or_noticed(copy, caplog, harm):
    noticed = 0
    for name in data_files(copy()):
        folder = copy()
        harm(folder / name)
        noticed += survives(folder, caplog)
        shutil.rmtree(folder)
    assert noticed > 4


@pytest.mark.parametrize("what", ["ema_params", "rest", "meta", ""])
def test_a_lost_item_or_an_empty_step_is_skipped(copy, caplog, what):
    folder = copy()
    shutil.rmtree(folder / "3" / what)
    (folder / "3").mkdir(exist_ok=True)
    assert survives(folder, caplog)


def test_several_damaged_steps_are_skipped_for_the_newest_sound_one(copy, caplog):
    folder = copy()
    for step in (2, 3):
        (folder / str(step) / "meta" / "metadata").write_text("{}")
    step, restored, _ = restore(folder)
    assert step == 1
    assert_same_bits(restored, small(1))
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "checkpoint 3 is damaged and skipped",
        "checkpoint 2 is damaged and skipped",
    ]
    assert {path.name for path in (folder / "damaged").iterdir()} == {"2", "3"}


def tamper(path):
    """Changes the description so that it still parses."""
    meta = json.loads(path.read_text())
    assert '"step": 3' in meta["content"]
    meta["content"] = meta["content"].replace('"step": 3', '"step": 4')
    path.write_text(json.dumps(meta))


def test_a_changed_description_is_noticed(copy, caplog):
    folder = copy()
    tamper(folder / "3" / "meta" / "metadata")
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.describe() == {"step": 2}
    assert survives(folder, caplog)


def test_two_swapped_arrays_are_noticed(tmp_path, caplog):
    """They are complete, readable, of the right shape, and the wrong ones."""
    for name, first, second in (("right", 1, 2), ("wrong", 2, 1)):
        with Checkpoints(tmp_path / name) as checkpoints:
            items = {"x": {"a": jnp.full(900, first), "b": jnp.full(900, second)}}
            checkpoints.save(1, items, {})
    shutil.rmtree(tmp_path / "right" / "1" / "x")
    shutil.copytree(tmp_path / "wrong" / "1" / "x", tmp_path / "right" / "1" / "x")
    with Checkpoints(tmp_path / "right") as found, pytest.raises(CheckpointError, match="fingerpr"):
        found.restore(abstract(items))


def test_reading_changes_nothing_on_disk(copy):
    folder = copy()
    (folder / "3" / "meta" / "metadata").write_text("{}")
    shutil.copytree(folder / "2", folder / f"4{TMP}")
    before = content(folder)
    step, _, _ = restore(folder, read_only=True)
    assert step == 2
    assert content(folder) == before


def test_reading_does_not_touch_the_trash_of_a_writer(copy):
    folder = copy()
    (folder / ".trash" / "1").mkdir(parents=True)
    before = content(folder)
    restore(folder, read_only=True)
    assert content(folder) == before


def test_when_all_are_damaged_they_are_named_and_stay(copy):
    folder = copy()
    for step in (1, 2, 3):
        tamper_any = folder / str(step) / "meta" / "metadata"
        flip(tamper_any, tamper_any.stat().st_size // 2, 0)
    before = content(folder)
    for read_only in (True, False):
        with pytest.raises(CheckpointError, match="no sound checkpoint") as error:
            restore(folder, read_only)
        assert "\n" not in str(error.value)
        assert all(f"step {step}: " in str(error.value) for step in (1, 2, 3))
    assert content(folder) == before


def test_a_damaged_step_can_be_written_again(copy):
    folder = copy()
    for _ in range(2):  # also if `damaged` holds that step already
        (folder / "3" / "meta" / "metadata").write_text("{}")
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.restore(abstract(small(0)))[0] == 2
            checkpoints.save(3, small(3), {"step": 3})
        assert restore(folder)[0] == 3
    assert len(list((folder / "damaged").iterdir())) == 2


# --- saves in progress, killed and failed ----------------------------------------------------


@pytest.fixture
def renames(monkeypatch):
    """Delays the rename with which Orbax completes a step, or makes it fail."""

    class Renames:
        gate = threading.Event()
        error: OSError | None = None

    real = os.rename
    Renames.gate.set()

    def rename(source, target, **kwargs):
        if TMP in str(source) and not Renames.gate.wait(20):
            raise TimeoutError
        if TMP in str(source) and Renames.error is not None:
            raise Renames.error
        return real(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", rename)
    yield Renames
    Renames.gate.set()


FULL = OSError(28, "No space left on device")


def test_a_step_is_listed_only_when_it_is_complete(copy, renames):
    folder = copy()
    with Checkpoints(folder) as checkpoints:
        renames.gate.clear()
        checkpoints.save(4, small(4), {"step": 4})
        checkpoints.report()  # does not wait
        assert checkpoints.steps() == [1, 2, 3]
        assert restore(folder, read_only=True)[0] == 3
        renames.gate.set()
        checkpoints.report(wait=True)
        assert checkpoints.steps()[-1] == 4


def test_leaving_waits_for_the_save(copy, renames):
    folder = copy()
    with Checkpoints(folder) as checkpoints:
        renames.gate.clear()
        checkpoints.save(4, small(4), {"step": 4})
        threading.Timer(0.3, renames.gate.set).start()
    assert (folder / "4").is_dir()
    assert_same_bits(restore(folder)[1], small(4))


@pytest.mark.parametrize("name", [f"4{TMP}", f"40{TMP}"])
def test_the_remains_of_a_killed_save_are_never_listed_and_are_removed(copy, name):
    folder = copy()
    shutil.copytree(folder / "3", folder / name)
    shutil.rmtree(folder / name / "meta")
    for read_only in (True, False):
        with Checkpoints(folder, read_only=read_only) as checkpoints:
            assert checkpoints.steps() == [1, 2, 3]
            assert checkpoints.restore(abstract(small(0)))[0] == 3
        assert (folder / name).exists() == read_only


def test_half_deleted_steps_are_not_listed_and_are_removed(copy):
    folder = copy()
    (folder / ".trash").mkdir()
    shutil.move(folder / "1", folder / ".trash" / "1")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 3]
    assert not (folder / ".trash").exists()


def report_and_wait(checkpoints):
    checkpoints.report(wait=True)


def report_now_and_then(checkpoints):
    """As the training loop does it."""
    for _ in range(400):
        checkpoints.report()
        time.sleep(0.05)


def save_the_next(checkpoints):
    checkpoints.save(5, small(5), {"step": 5})


@pytest.mark.parametrize("act", [report_and_wait, report_now_and_then, save_the_next])
def test_a_failure_in_the_background_is_raised_and_the_next_save_works(copy, renames, act):
    """Orbax itself lists the lost step and raises nothing until the next save."""
    folder = copy()
    with Checkpoints(folder) as checkpoints:
        renames.error = FULL
        checkpoints.save(4, small(4), {"step": 4})
        with pytest.raises(CheckpointError, match="saving checkpoint 4 failed: .*No space") as error:
            act(checkpoints)
        assert "\n" not in str(error.value)
        checkpoints.report(wait=True)  # raised once
        assert checkpoints.steps() == [1, 2, 3]
        renames.error = None
        checkpoints.save(6, small(6), {"step": 6})
        checkpoints.report(wait=True)
        assert checkpoints.steps() == [2, 3, 6]
    assert_same_bits(restore(folder)[1], small(6))


def test_a_failure_of_the_last_save_is_raised_on_leaving(copy, renames):
    checkpoints = Checkpoints(copy())
    renames.error = FULL
    checkpoints.save(4, small(4), {"step": 4})
    with pytest.raises(CheckpointError, match="saving checkpoint 4 failed"):
        checkpoints.__exit__(None, None, None)


def test_a_step_is_not_overwritten(copy):
    folder = copy()
    refused = pytest.raises(CheckpointError, match="saving checkpoint 3 failed")
    with Checkpoints(folder) as checkpoints, refused:
        checkpoints.save(3, small(9), {"step": 9})
    assert_same_bits(restore(folder)[1], small(3))


@pytest.mark.parametrize(("there", "back"), [((2, 4), (1, 1)), ((1, 1), (1, 8)), ((1, 8), (8, 1)), ((8, 1), (2, 4))])
def test_other_devices_can_read_the_checkpoint(tmp_path, devices, there, back):
    items = {"state": placed(large(), *there, devices)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, items, {})
    target = {"state": placed(large(), *back, devices)}
    with Checkpoints(tmp_path) as checkpoints:
        _, restored, _ = checkpoints.restore(abstract(target))
    assert_same_bits(restored, {"state": large()})
    wanted = jax.tree.map(lambda x: x.sharding, target)
    assert jax.tree.map(lambda x: x.sharding, restored) == wanted


# --- what cannot be read is not damaged ------------------------------------------------------

UNREADABLE = """
import os, resource, sys
from pathlib import Path
import jax, numpy as np
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError
folder, how = Path(sys.argv[1]), sys.argv[2]
target = {"ema_params": {"w": jax.ShapeDtypeStruct((40, 50), np.float32, sharding=jax.sharding.SingleDeviceSharding(
    jax.devices()[0]))}}
with Checkpoints(folder) as checkpoints:
    checkpoints.restore(target)  # compiles and opens what is needed once
    if how == "descriptors":
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    else:
        os.setuid(65534)  # root can read everything
    try:
        checkpoints.restore(target)
    except (CheckpointError, OSError) as error:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        print(error)
        sys.exit(3)
"""


def run_unreadable(folder, how):
    return subprocess.run(
        [sys.executable, "-c", UNREADABLE, folder, how],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"XLA_FLAGS": ""},
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not read a file")
@pytest.mark.parametrize("what", ["ema_params", "meta"])
def test_a_file_without_permission_stops_with_its_name_and_moves_nothing(copy, what):
    folder = copy()
    for directory in (*folder.parents, folder, *folder.rglob("*/")):
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(0o755)
    largest = max((folder / "3" / what).rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    before = content(folder)
    largest.chmod(0o000)
    done = run_unreadable(folder, "permission")
    assert done.returncode == 3, done.stderr
    assert "checkpoint 3 cannot be read" in done.stdout
    assert str(largest) in done.stdout
    largest.chmod(0o644)
    assert content(folder) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not read a directory")
def test_a_directory_without_permission_is_not_an_empty_one(copy):
    """Training would start again from nothing beside the checkpoints."""
    folder = copy()
    for directory in (*folder.parents, folder):
        directory.chmod(0o755)
    code = UNREADABLE.replace("os.setuid(65534)  # root can read everything", "os.chmod(folder, 0); os.setuid(65534)")
    done = subprocess.run([sys.executable, "-c", code, folder, ""], capture_output=True, text=True, timeout=120)
    folder.chmod(0o755)
    assert done.returncode == 3, done.stderr
    assert f"Permission denied: '{folder}'" in done.stdout


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
@pytest.mark.slow
def test_without_descriptors_it_stops_and_moves_nothing(copy):
    folder = copy()
    before = content(folder)
    done = run_unreadable(folder, "descriptors")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Too many open files" in done.stdout
    assert content(folder) == before
