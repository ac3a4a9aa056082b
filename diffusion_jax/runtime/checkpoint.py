"""Checkpoints that restore bit for bit or are skipped. The only file that imports Orbax.

Orbax writes in the background and lists a step once it is complete. This module adds:
- a fingerprint of every leaf, verified on restore (otherwise a flipped bit in an array file restores silently);
- fallback to the previous sound checkpoint;
- errors of background saves as soon as they are known;
- a JSON description beside the arrays.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from diffusion_jax.runtime import place
from diffusion_jax.runtime.errors import CheckpointError, DamageError, TargetError, first_line
from diffusion_jax.runtime.files import find_obstacle
from diffusion_jax.runtime.fingerprint import (
    add_hash,
    check_equal,
    describe_leaves,
    fingerprint_leaves,
    read_leaf,
    verify_hash,
)
from diffusion_jax.runtime.late_writes import ignore_late_writes
from diffusion_jax.runtime.mesh import replicated
from diffusion_jax.runtime.place import Place
from diffusion_jax.runtime.processes import is_owner, synchronize
from diffusion_jax.runtime.weights import Weights, name_params, nest_params, split_path

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Under absl's app.run Orbax logs every thread; its errors are raised as CheckpointError anyway.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Checkpoints:
    """The checkpoints of one run, in `directory`; the newest `keep` are kept.

    A checkpoint consists of named pytrees, which can be restored separately, and a JSON description. Use it as
    a context manager: leaving waits for the save in progress.
    """

    def __init__(self, directory: Place, keep: int = 3, read_only: bool = False):
        self.directory = place.absolute(directory)
        self._keep, self._read_only, remote = keep, read_only, place.is_remote(directory)
        # Renaming a directory is atomic, deleting it is not: old steps are renamed into .trash first. Remains of a
        # killed save are removed at the start. A bucket has no renames, and Orbax would take `damaged` for remains.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if remote else ocp.checkpoint_managers.LatestN(keep),
            todelete_subdir=None if read_only else ".trash",
            cleanup_tmp_directories=not (read_only or remote),
            create=not read_only,
            read_only=read_only,
        )
        with place.store_errors(self.directory, "opened"):
            if not read_only:
                ignore_late_writes()
                if is_owner():
                    place.remove_remains(self.directory)
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._pending: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.report(wait=True)
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps that are listed on disk, oldest first. Raises OSError if the directory cannot be read."""
        with place.store_errors(self.directory, "read"):
            if self.directory.exists():
                list(self.directory.iterdir())  # Orbax takes a directory that cannot be read for an empty one
            self._manager.reload()
            return sorted(self._manager.all_steps())

    def probe(self) -> None:
        """Writes something small with the real writer, and removes it. Raises CheckpointError if that fails.

        A path that the writer cannot use should end the run before the training, not after it.
        """
        probe = self.directory.with_name(".probe")  # inside, Orbax's clean-up of killed saves may remove it
        try:
            with ocp.StandardCheckpointer() as writer:
                writer.save(probe, {"probe": np.zeros(1)}, force=True)
        except Exception as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.directory} ({first_line(error)}); use another directory"
            ) from error
        if is_owner():
            place.remove_tree(probe)

    def save(self, step: int, items: dict[str, Any], description: dict[str, Any]) -> None:
        """Starts writing a checkpoint in the background; `description` must be serializable as JSON."""
        self.report(wait=True)
        leaves = {
            name: {"shapes": describe_leaves(item), "fingerprints": fingerprint_leaves(item)}
            for name, item in items.items()
        }
        meta = add_hash({"description": description, "leaves": leaves})
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        try:
            self._manager.save(step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args), force=True)
        except Exception as error:
            raise CheckpointError(_save_failure(step, error)) from error
        self._pending = step

    def report(self, wait: bool = False) -> None:
        """Raises CheckpointError if the save in progress has failed; with `wait`, waits for its end first.

        Orbax itself raises only at the next save, and lists the lost step until then.
        """
        step = self._pending
        if step is None or (self._manager.is_saving_in_progress() and not wait):
            return
        self._pending = None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise CheckpointError(_save_failure(step, error)) from error
        if step not in self.steps():
            raise CheckpointError(_save_failure(step, "it is not on disk"))
        if is_owner():
            place.remove_old_steps(self.directory, self._keep)

    def restore(self, items: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Returns the newest sound checkpoint: (step, items, description).

        `items` maps the names to read to pytrees of ShapeDtypeStruct with shardings. Damaged checkpoints are
        logged, and unless read-only moved to `damaged/`, so that their steps can be written again. Raises
        TargetError if `items` differ from the saved ones, CheckpointError if there is no sound checkpoint, or if one
        could not be read for another reason than damage, such as a missing permission or a lack of memory.
        """
        return self._restore_newest(lambda leaves: items)

    def read_weights(self, name: str, mesh: Mesh) -> Weights:
        """Returns an item of nested dicts of the newest sound checkpoint by name, on every device of `mesh`."""

        def as_saved(leaves: dict[str, Any]) -> dict[str, Any]:
            shapes = leaves.get(name, {}).get("shapes", {})
            named = {"/".join(split_path(path)): read_leaf(text, replicated(mesh)) for path, text in shapes.items()}
            return {name: nest_params(named)}

        return name_params(self._restore_newest(as_saved)[1][name])

    def _restore_newest(self, make_items: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        damaged: dict[int, str] = {}
        for step, meta in self._read_meta(damaged):
            read = functools.partial(self._restore_step, step, make_items(meta["leaves"]), meta["leaves"])
            restored = self._unless_damaged(step, damaged, read)
            if restored is not None:
                self._set_aside(list(damaged))
                return step, restored, meta["description"]
        raise CheckpointError(self._explain_failure(damaged))

    def describe(self) -> dict[str, Any]:
        """Returns the description of the newest checkpoint whose description is sound."""
        damaged: dict[int, str] = {}
        for _, meta in self._read_meta(damaged):
            return meta["description"]
        raise CheckpointError(self._explain_failure(damaged))

    def _read_meta(self, damaged: dict[int, str]) -> Iterator[tuple[int, dict]]:
        """Yields (step, description and leaves), newest first; damaged steps are added to `damaged` instead."""
        for step in reversed(self.steps()):
            meta = self._unless_damaged(step, damaged, functools.partial(self._restore_meta, step))
            if meta is not None:
                yield step, meta

    def _restore_meta(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return verify_hash(self._manager.restore(step, args=args)["meta"])

    def _unless_damaged(self, step: int, damaged: dict[int, str], read: Callable[[], Result]) -> Result | None:
        """Returns read(), or None if the checkpoint is damaged: its hash differs, or readable files have no sense.

        Any other failure raises CheckpointError: a checkpoint that cannot be read now may be sound. A failure that
        does not come again was none.
        """
        for _ in range(2):
            try:
                return read()
            except TargetError:
                raise
            except DamageError as error:
                reason = str(error)
                break
            except Exception as error:
                reason = first_line(error)
                if obstacle := find_obstacle(self.directory / str(step), error):
                    raise CheckpointError(
                        f"checkpoint {step} cannot be read ({obstacle}); nothing was changed; remove the cause, or "
                        f"move {self.directory / str(step)} away, and run the same command again"
                    ) from error
        damaged[step] = reason
        log.warning("checkpoint %d is damaged and skipped: %s", step, reason)
        return None

    def _restore_step(self, step: int, items: dict[str, Any], leaves: dict) -> dict[str, Any]:
        for name, target in items.items():
            if name not in leaves:
                raise TargetError(f'checkpoint {step} has no item "{name}", only {sorted(leaves)}')
            try:
                check_equal("shape and dtype", name, leaves[name]["shapes"], describe_leaves(target))
            except DamageError as error:
                raise TargetError(f"checkpoint {step} does not fit: {error}") from error
        args = {name: ocp.args.StandardRestore(target) for name, target in items.items()}
        restored = dict(self._manager.restore(step, args=ocp.args.Composite(**args)))
        for name, item in restored.items():
            check_equal("fingerprint", name, leaves[name]["fingerprints"], fingerprint_leaves(item))
        return restored

    def _explain_failure(self, damaged: dict[int, str]) -> str:
        if not damaged:
            return f"no checkpoint in {self.directory}; train first, or use another workdir"
        found = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
        return f"no sound checkpoint in {self.directory} ({found}); restore one from a backup"

    def _set_aside(self, steps: list[int]) -> None:
        """Moves damaged steps to `damaged/`, out of the listing; nothing is deleted."""
        if not steps or self._read_only:
            return
        if is_owner():
            self._move_aside(steps)
        synchronize("damaged checkpoints are set aside")
        self._manager.reload()

    def _move_aside(self, steps: list[int]) -> None:
        aside = self.directory / "damaged"
        place.make_directory(aside)
        for step in steps:
            target = aside / str(step)
            while target.exists():
                target = target.with_name(target.name + "_")
            place.move_tree(self.directory / str(step), target)


def _save_failure(step: int, error: object) -> str:
    return f"saving checkpoint {step} failed: {first_line(error)}"
