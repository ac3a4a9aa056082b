"""Several processes that train or sample together, each with its own devices: JAX's distributed runtime.

Every process runs the same program. Process 0 owns the run's directory: it alone holds the lock and writes the config,
the metrics and the images. Checkpoints are written by all.
"""

import functools
import logging
import os
import socket
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax.validation import check_integer

__all__ = ["initialize", "is_owner"]

log = logging.getLogger(__name__)

# A process that is gone is noticed after this many seconds; JAX's defaults are 100 and 300.
_HEARTBEAT_SECONDS = 10
_SHUTDOWN_SECONDS = 5
# Another address for the coordinator to listen on, behind a NAT for example; JAX reads it.
_BIND = "JAX_COORDINATOR_BIND_ADDRESS"


def __dir__() -> list[str]:
    return __all__


def initialize(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> bool:
    """Joins the processes that work together. Call it before anything else uses JAX.

    Without arguments the processes are found by themselves on TPU pods and under SLURM and Open MPI; elsewhere the
    process works alone. The coordinator listens on its own address only, and a process that is gone ends the others
    within about 20 seconds.

    Args:
      coordinator_address: host:port of process 0, the same in all processes.
      num_processes: how many processes there are.
      process_id: which one this is, from 0.

    Returns whether there are other processes to work with. Raises ValueError unless all arguments are given or none,
    and RuntimeError if the others cannot be reached.

    >>> initialize()
    False
    >>> initialize("10.0.0.1:1234", num_processes=2)
    Traceback (most recent call last):
    ValueError: process_id: required, because coordinator_address is given
    """
    arguments = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if any(value is not None for value in arguments.values()):
        _check(arguments)
        if process_id:
            log.info("waiting for process 0 at %s", coordinator_address)
        _connect(bind=str(coordinator_address), **arguments)
    elif _launched_tasks() > 1:
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(_launcher_port()))
        _connect(bind=_own_address(os.environ["JAX_COORDINATOR_PORT"]))
    elif _on_tpu():
        os.environ.setdefault("JAX_COORDINATOR_PORT", "8482")
        _connect(bind=_own_address(os.environ["JAX_COORDINATOR_PORT"]))
    else:
        return False
    return jax.process_count() > 1


def _check(arguments: dict) -> None:
    given = next(name for name, value in arguments.items() if value is not None)
    for name, value in arguments.items():
        if value is None:
            raise ValueError(f"{name}: required, because {given} is given")
    address = arguments["coordinator_address"]
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator_address = {address}: must be host:port, such as 10.0.0.1:1234")
    check_integer("num_processes", arguments["num_processes"])
    check_integer("process_id", arguments["process_id"], 0, arguments["num_processes"] - 1)
    listens = arguments["process_id"] == 0 and _BIND not in os.environ
    _check_reachable(address, host.strip("[]"), int(port), listens)


def _check_reachable(address: str, host: str, port: int, listens: bool) -> None:
    """Raises ValueError if the host has no address, or if it must listen there and cannot: gRPC ends the process."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if listens:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        needs = "must be an address and a free port of the host of process 0" if listens else "must lead to a host"
        raise ValueError(f"coordinator_address = {address}: {needs} ({error.strerror})") from error


def _connect(bind: str | None, **arguments) -> None:
    if _BIND in os.environ:
        bind = None
    # CPUs that stand in for accelerators: programs in flight beside each other would wait for each other's collectives.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # JAX's own handler of SIGTERM would swallow a signal that comes before the training listens to signals.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **arguments,
        coordinator_bind_address=bind,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )


def _launched_tasks() -> int:
    """The number of processes that SLURM's srun or Open MPI's mpirun has started with this one."""
    if "SLURM_STEP_NODELIST" in os.environ:  # not in the batch script itself
        return int(os.environ.get("SLURM_NTASKS", 1))
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))


def _launcher_port() -> int:
    """A port that all processes of a job agree on, and other jobs on the machine rarely share."""
    names = "SLURM_JOB_ID", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri"
    job = next((os.environ[name] for name in names if name in os.environ), "")
    return 65535 - zlib.crc32(job.encode()) % 4096


def _own_address(port: str) -> str | None:
    """The address of this host, to listen on; None for all addresses where the name leads to loopback only."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "127.0.0.1"
    if address.startswith("127."):
        log.warning("the name of this host leads to %s only; the coordinator listens on all addresses", address)
        return None
    return f"{address}:{port}"


def _on_tpu() -> bool:
    """Whether this is a Cloud TPU VM: the devices are there, and JAX is not told to use others."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if (platforms and "tpu" not in platforms) or "TPU_SKIP_MDS_QUERY" in os.environ:
        return False
    return "TPU_WORKER_ID" in os.environ or os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")


def is_owner() -> bool:
    """Whether this process owns the run's directory: process 0.

    >>> is_owner()
    True
    """
    return jax.process_index() == 0


def process_rows(size: int) -> slice:
    """The part of a global batch of `size` examples that this process reads.

    >>> process_rows(16)
    slice(0, 16, None)
    """
    part = size // jax.process_count()
    return slice(jax.process_index() * part, (jax.process_index() + 1) * part)


def synchronize(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def from_owner(values: tuple[bool, ...]) -> tuple[bool, ...]:
    """The values of process 0, in all processes."""
    return tuple(map(bool, multihost_utils.broadcast_one_to_all(np.array(values, np.int32))))


def largest(value: int) -> jax.Array:
    """The largest `value` of all processes, as an array that may still be being computed. All must call it together."""
    split, compute = _prepare_largest()
    local = np.full(jax.local_device_count(), value, np.int32)
    return compute(jax.make_array_from_process_local_data(split, local))


@functools.cache
def _prepare_largest() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """One number per device, and the program for their largest: made once, because every training step asks."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    return NamedSharding(mesh, P("all")), jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
