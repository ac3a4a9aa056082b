"""Examines a run before it starts, on this machine's devices or for a TPU slice that is not here."""

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import ml_collections

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment, as_plain
from diffusion_jax.data.on_device import count_bytes
from diffusion_jax.data.sources import Source
from diffusion_jax.preflight.disk import Disk, measure_disk
from diffusion_jax.preflight.findings import Findings, RunFacts
from diffusion_jax.preflight.inputs import Inputs, read_inputs
from diffusion_jax.preflight.programs import (
    SHORTAGE,
    Program,
    compile_program,
    count_flops,
    lower_sampler,
    lower_train_step,
)
from diffusion_jax.preflight.sharding import list_shards
from diffusion_jax.preflight.speed import Speed, time_steps
from diffusion_jax.preflight.tpu import find_devices, parse_slice
from diffusion_jax.preflight.waiting import Waiting
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.mesh import MeshShape, find_capacity, make_mesh
from diffusion_jax.runtime.place import Place, complete_steps, run_path
from diffusion_jax.runtime.stopping import Stop, Stopped
from diffusion_jax.workdir.layout import abstract_state, init_state
from diffusion_jax.workdir.preparation import Prepared, prepare, read_initial
from diffusion_jax.workdir.program import iterate_batches, make_batches, split_seed
from diffusion_jax.workdir.resume import find_changes

__all__ = ["check_run", "check_slice"]

Config: TypeAlias = ml_collections.ConfigDict | Mapping[str, Any]
Workdir: TypeAlias = str | os.PathLike


class _Subject(NamedTuple):
    """A run that has passed the checks of training, and what is known without compiling."""

    prepared: Prepared
    facts: RunFacts
    inputs: Inputs
    disk: Disk
    startup: dict[str, float]


def check_run(
    config: Config,
    workdir: Workdir | None = None,
    *,
    accept: Sequence[str] = (),
    timed_steps: int = 10,
    progress: bool = False,
) -> Findings:
    """Examines the run that `dj.train(config, workdir, accept=accept)` would start or resume, on all devices.

    Its programs are compiled, and `timed_steps` real steps are timed after a first one, with new parameters; 0 for
    none. Nothing is written. `progress` shows on stderr what is done.

    Raises what `dj.train` raises for a run that cannot work.

    >>> findings = check_run(dj.configs.digits("smoke"), timed_steps=2)  # doctest: +SKIP
    >>> findings.fits, findings.run.parameters  # doctest: +SKIP
    (True, 177553)
    """
    with _listen(progress) as wait:
        subject = _examine(config, workdir, accept, None, wait)
        experiment, training, _ = subject.prepared
        step, compiled = _compile("train step", experiment, training, wait)
        sampler, _ = _compile("sampler", experiment, training, wait)
        flops = wait("counting operations", lambda: count_flops(experiment, training))
        findings = Findings(
            run=subject.facts,
            inputs=subject.inputs,
            disk=subject.disk,
            flops=flops,
            capacity=find_capacity(experiment.mesh),
            programs=(step, sampler),
            shards=(list_shards(experiment.mesh, abstract_state(experiment)),),
            startup=subject.startup | {"compile the train step": step.seconds},
        )
        if not timed_steps or compiled is None or not step.fits(findings.capacity):
            return findings
        return _time(findings, compiled, subject, timed_steps, wait)


def check_slice(
    config: Config,
    tpu: str,
    workdir: Workdir | None = None,
    *,
    accept: Sequence[str] = (),
    progress: bool = False,
) -> Findings:
    """Examines the run as `check_run` does, for a TPU slice such as "v5e:2x2", without a TPU.

    The TPU compiler, libtpu, compiles the training step and the sampler, for the config's mesh and for the two meshes
    that split all or nothing of the state. Nothing is computed, so that no step is timed.

    Raises RunError if libtpu is not installed, and ValueError for an unknown slice.
    """
    found = parse_slice(tpu)
    devices = find_devices(found)
    with _listen(progress) as wait:
        subject = _examine(config, workdir, accept, devices, wait)
        experiment, training, _ = subject.prepared
        local = dataclasses.replace(experiment, mesh=make_mesh(MeshShape(1), jax.local_devices()[:1]))
        flops = wait("counting operations", lambda: count_flops(local, training))
        programs, shards = list[Program](), []
        for each in _vary_mesh(experiment, devices):
            programs += [_compile(name, each, training, wait)[0] for name in ("train step", "sampler")]
            shards.append(list_shards(each.mesh, abstract_state(each)))
    return Findings(
        run=subject.facts,
        inputs=subject.inputs,
        disk=subject.disk,
        flops=flops,
        capacity=found.capacity,
        programs=tuple(programs),
        shards=tuple(shards),
        startup=subject.startup,
        tpu=found.name,
    )


def _vary_mesh(experiment: Experiment, devices: list[jax.Device]) -> list[Experiment]:
    """The experiment on its own mesh, with the state copied to all devices, and with the state split over all."""
    shapes = [MeshShape(**experiment.mesh.shape), MeshShape(len(devices), 1), MeshShape(1, len(devices))]
    return [dataclasses.replace(experiment, mesh=make_mesh(shape, devices)) for shape in dict.fromkeys(shapes)]


@contextlib.contextmanager
def _listen(progress: bool) -> Iterator[Waiting]:
    """Ends at once after a signal, also while the compiler works."""
    stop = Stop()
    with contextlib.suppress(Stopped), stop.listen():
        yield Waiting(stop, progress)
    stop.raise_signal()


def _examine(
    config: Config, workdir: Workdir | None, accept: Sequence[str], devices: list[jax.Device] | None, wait: Waiting
) -> _Subject:
    """Passes a run through the checks of training, and reads what needs no compiler."""
    plain, directory = as_plain(config), None if workdir is None else run_path("workdir", workdir)
    start = time.perf_counter()
    prepared = wait("opening the data", lambda: prepare(plain, directory, devices=devices))
    seconds = time.perf_counter() - start
    _check_resumption(prepared, directory, accept)
    disk = measure_disk(prepared.experiment, directory)
    batches = make_batches(prepared.experiment, prepared.training)
    inputs = wait("reading images", lambda: read_inputs(batches))
    facts = _describe(prepared, directory, "" if workdir is None else os.fspath(workdir))
    return _Subject(prepared, facts, inputs, disk, {"open the data": seconds})


def _check_resumption(prepared: Prepared, directory: Place | None, accept: Sequence[str]) -> None:
    """Raises ConfigError where training would: the weights to start from, the run to go on with."""
    read_initial(directory, prepared.experiment)
    if directory is not None:
        find_changes(directory, prepared.experiment, prepared.training, accept)
    elif accept:
        raise ConfigError(f"accept = {','.join(accept)}: needs a run to go on with; name its directory, workdir")


def _describe(prepared: Prepared, directory: Place | None, workdir: str) -> RunFacts:
    experiment, training, held_out = prepared
    done = [] if directory is None else complete_steps(directory / "checkpoints")
    return RunFacts(
        workdir=workdir,
        start=max(done, default=0),
        steps=experiment.plan.steps,
        batch_size=experiment.plan.batch_size,
        accumulate=experiment.plan.accumulate,
        network=type(experiment.network.model).__name__,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(abstract_state(experiment).params)),
        training=len(training),
        held_out=len(held_out),
        devices=experiment.mesh.devices.flat[0].device_kind,
        mesh=dict(experiment.mesh.shape),
    )


def _compile(
    name: str, experiment: Experiment, training: Any, wait: Waiting
) -> tuple[Program, jax.stages.Compiled | None]:
    lower = {"train step": lower_train_step, "sampler": lower_sampler}[name]
    mesh = experiment.mesh
    where = f" for data={mesh.shape['data']} fsdp={mesh.shape['fsdp']}" * (mesh.size > 1)
    kept = count_bytes(training) if experiment.plan.data_on_device else 0
    compile_it = functools.partial(compile_program, name, mesh, lambda: lower(experiment, training), kept)
    return wait(f"compiling the {name}{where}", compile_it)


def _time(findings: Findings, compiled: jax.stages.Compiled, subject: _Subject, n: int, wait: Waiting) -> Findings:
    """The findings with n steps timed, or with what the device says if it runs out of memory."""
    experiment, training, _ = subject.prepared
    most = experiment.plan.steps_per_call
    start = time.perf_counter()
    try:
        keys = split_seed(experiment.plan.seed)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(experiment))
        init = functools.partial(init_state, keys.init, experiment, shardings)
        state = wait("making the first state", lambda: jax.block_until_ready(init()))
        seconds = time.perf_counter() - start
        calls = itertools.islice(_iterate_calls(experiment, training, findings.run.start), 1 + -(-n // most))
        several = most > 1

        def take(state: Any, batch: Any, size: int) -> Any:
            return compiled(state, batch, keys.step, *[size] * several)

        speed: Speed = wait.count("timing steps,", n + 1, functools.partial(time_steps, take, state, calls))
    except jax.errors.JaxRuntimeError as error:
        if SHORTAGE not in str(error):
            raise
        return dataclasses.replace(findings, shortage=first_line(error))
    startup = findings.startup | {"make the first state": seconds, "first step": speed.first}
    return dataclasses.replace(findings, startup=startup, speed=speed)


def _iterate_calls(experiment: Experiment, training: Source, start: int) -> Iterator[tuple[Any, int]]:
    """The batches and the number of steps of each call of an endless run."""
    plan = dataclasses.replace(experiment.plan, steps=sys.maxsize)
    batches = iterate_batches(dataclasses.replace(experiment, plan=plan), training, start)
    return zip(batches, plan.calls(start), strict=False)
