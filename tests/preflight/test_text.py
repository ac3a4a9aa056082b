"""The report of findings that are given: every figure is there, in lines that fit."""

import dataclasses
import re

import pytest

from diffusion_jax.preflight.disk import Disk
from diffusion_jax.preflight.findings import Findings, RunFacts
from diffusion_jax.preflight.inputs import Inputs
from diffusion_jax.preflight.memory import Memory
from diffusion_jax.preflight.programs import Program
from diffusion_jax.preflight.sharding import Leaf, Shards
from diffusion_jax.preflight.speed import Speed
from diffusion_jax.preflight.text import write_text

MIB, GIB = 2**20, 2**30
OWN, SPLIT = {"data": 4, "fsdp": 1}, {"data": 1, "fsdp": 4}
INPUTS = Inputs(50, 60, (32, 32, 3), "uint8", 3.0, 251.0, 120.25, 60.5, 0, 0, 1.5, (20, 30), ("cat", "dog"))
FINDINGS = Findings(
    run=RunFacts("runs/a", 100, 1100, 128, 4, "UNet", 35_746_307, 50_000, 10_000, "TPU v5 lite", OWN),
    inputs=INPUTS,
    disk=Disk(546 * MIB, kept=3, present=1, free=10 * GIB),
    flops=4.56e12,
    capacity=16 * GIB,
    programs=(
        Program("train step", OWN, 552.0, Memory(546 * MIB, 604 * MIB, 3 * 2**10, 10 * MIB)),
        Program("sampler", OWN, 60.0, Memory(136 * MIB, 20 * GIB, 768 * 2**10)),
        Program("train step", SPLIT, 600.0, None, "Ran out of memory: 79.44G exceed 15.75G."),
    ),
    shards=(
        Shards(
            SPLIT,
            (
                Leaf("params/w", (3, 3, 512), "float32", ("", "", "fsdp"), 18432, 4608),
                Leaf("ema_params/w", (3, 3, 512), "float32", ("", "", ""), 18432, 18432),
            ),
        ),
    ),
    startup={"open the data": 1.25, "compile the train step": 552.0},
    speed=Speed(0.75, (0.4, 0.6)),
    tpu="v5e:2x2",
)


def lines_of(findings) -> list[str]:
    return [re.sub(" +", " ", line.strip()) for line in write_text(findings).splitlines()]


@pytest.mark.parametrize(
    "line",
    [
        "run runs/a: resumes after step 100, 1,000 steps of 1,100 left",
        "network UNet, 35,746,307 parameters",
        "devices 4 x TPU v5 lite of 16.0 GiB (v5e:2x2, not on this machine); mesh data=4",
        "batch 128 images, 32 per device, in 4 parts",
        "a step 4.56 TFLOP, 35.6 GFLOP per image",
        "Input: 50 of 60 training images, read in 1.5 s",
        "values 3 to 251, mean 120.2, standard deviation 60.5",
        '0 "cat" 20 ####################',
        '1 "dog" 30 ##############################',
        "train step data=4 546.0 MiB 604.0 MiB 3.0 KiB 10.0 MiB 1.1 GiB fits, 14.9 GiB left",
        "sampler data=4 136.0 MiB 20.0 GiB 768.0 KiB 0 B 20.1 GiB 4.1 GiB too much",
        "train step fsdp=4 does not fit",
        "train step, fsdp=4: Ran out of memory: 79.44G exceed 15.75G.",
        "params 1 1 18.0 KiB 4.5 KiB",
        "state 2 1 36.0 KiB 22.5 KiB",
        "params/w float32 3 x 3 x 512/fsdp",
        "a checkpoint 546.0 MiB uncompressed",
        "needed 1.6 GiB 3 are kept, one more while it is written; 1 are there",
        "free 10.0 GiB in the file system of the workdir",
        "start-up 553.2 s all of the above",
        "a step 0.5 s 0.4 to 0.6; 2 steps/s, 256 images/s, 9.12 TFLOP/s",
        "left 8 minutes 1,000 steps, without evaluations, samples and checkpoints",
        "Warnings",
        "memory: it does not fit; see docs/out-of-memory.md",
    ],
)
def test_every_figure_has_a_line(line):
    assert line in lines_of(FINDINGS)


def test_columns_are_aligned():
    text = write_text(FINDINGS).splitlines()
    head = next(i for i, line in enumerate(text) if "temporaries" in line)
    ends = {text[head].index("temporaries") + len("temporaries")}
    ends |= {text[row].index(size) + len(size) for row, size in ((head + 1, "604.0 MiB"), (head + 2, "20.0 GiB"))}
    assert len(ends) == 1


def test_many_classes_are_shown_by_the_ends_of_their_list():
    inputs = dataclasses.replace(INPUTS, labels=tuple(range(1, 1001)), class_names=())
    lines = lines_of(dataclasses.replace(FINDINGS, inputs=inputs))
    assert "classes, the 6 most and 6 least frequent of 1,000" in lines
    shown = [line.split()[0] for line in lines if re.fullmatch(r"\d+ [\d,]+( #+)?", line)]
    assert shown == [*map(str, range(999, 993, -1)), *map(str, range(5, -1, -1))]


def test_no_line_is_too_long_and_names_cannot_move_the_cursor():
    names = ("\x1b[2J" + "long " * 40, "b")
    run = dataclasses.replace(FINDINGS.run, workdir="runs/" + "x" * 200)
    inputs = dataclasses.replace(INPUTS, class_names=names)
    leaf = Leaf("opt_state/" + "block/" * 40, (3, 3, 512, 512), "float32", ("", "", "fsdp", ""), 10**7, 10**6)
    shards = (Shards(SPLIT, (leaf,)),)
    text = write_text(dataclasses.replace(FINDINGS, run=run, inputs=inputs, shards=shards))
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_what_a_compiler_says_is_wrapped_and_not_cut():
    said = "Ran out of memory on HBM, the total memory required " + "and required again " * 10 + "exceeds 15.75G."
    programs = (dataclasses.replace(FINDINGS.programs[2], refusal=said),)
    text = write_text(dataclasses.replace(FINDINGS, programs=programs, shortage=said))
    assert " ".join(text.split()).count(said) == 2
    assert max(map(len, text.splitlines())) <= 100


def test_without_timed_steps_and_warnings():
    findings = dataclasses.replace(FINDINGS, speed=None, programs=FINDINGS.programs[:1], run=FINDINGS.run)
    lines = lines_of(findings)
    assert "Time: no step was timed" in lines
    assert lines[-1] == "No warnings."


def test_a_disk_that_is_too_small_is_a_warning():
    findings = dataclasses.replace(FINDINGS, disk=Disk(546 * MIB, kept=3, free=GIB))
    assert "disk: the checkpoints do not fit; free some space, or lower train.keep_checkpoints" in lines_of(findings)
