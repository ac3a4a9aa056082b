"""A preflight's findings as text for a terminal, at most 100 columns wide."""

import textwrap
from collections.abc import Sequence

from diffusion_jax.preflight.findings import Findings
from diffusion_jax.preflight.inputs import Inputs
from diffusion_jax.preflight.programs import Program
from diffusion_jax.preflight.sharding import Shards
from diffusion_jax.training.estimate import format_seconds
from diffusion_jax.validation import printable

__all__ = ["format_bytes", "format_count", "write_text"]

_WIDTH = 100
_INDENT = "  "
# Classes and arrays that are listed; of more, the ends of the list.
_CLASSES, _ARRAYS = 12, 6
_BAR = 30
_BESIDE = "evaluations, samples and checkpoints"


def format_bytes(size: float) -> str:
    """Bytes in binary units.

    >>> format_bytes(812), format_bytes(5.5 * 2**20), format_bytes(2**40)
    ('812 B', '5.5 MiB', '1024.0 GiB')
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def format_count(value: float, unit: str) -> str:
    """A number with a decimal prefix.

    >>> format_count(4.56e12, "FLOP"), format_count(130.0, "images/s")
    ('4.56 TFLOP', '130 images/s')
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def write_text(findings: Findings) -> str:
    """The report: what a run is, needs and takes, and the warnings.

    >>> print(write_text(check_run(dj.configs.digits())))  # doctest: +SKIP
    """
    sections = [
        _write_run(findings),
        _write_inputs(findings.inputs),
        _write_memory(findings),
        *(_write_shards(shards) for shards in findings.shards),
        _write_disk(findings),
        _write_time(findings),
        _write_verdict(findings),
    ]
    lines = "\n\n".join("\n".join(section) for section in sections).split("\n")
    return "\n".join(printable(line)[:_WIDTH].rstrip() for line in lines)


def _write_run(findings: Findings) -> list[str]:
    run, flops = findings.run, findings.flops
    left = f"{run.steps - run.start:,} steps"
    state = f"resumes after step {run.start:,}, {left} of {run.steps:,} left" if run.start else left
    micro = f", in {run.accumulate} parts" * (run.accumulate > 1)
    rows = [
        ("run", f"{run.workdir or 'no workdir'}: {state}"),
        ("network", f"{run.network}, {run.parameters:,} parameters"),
        ("data", f"{run.training:,} training images, {run.held_out:,} held out"),
        ("devices", f"{_name_devices(findings)}; mesh {_name_mesh(run.mesh)}"),
        ("batch", f"{run.batch_size:,} images, {run.batch_size // run.num_devices:,} per device{micro}"),
        ("a step", f"{format_count(flops, 'FLOP')}, {format_count(flops / run.batch_size, 'FLOP')} per image"),
    ]
    return ["Run", *_align(rows, "ll")]


def _name_devices(findings: Findings) -> str:
    away = f" ({findings.tpu}, not on this machine)" * bool(findings.tpu)
    memory = f" of {format_bytes(findings.capacity)}" * bool(findings.capacity)
    return f"{findings.run.num_devices} x {findings.run.devices}{memory}{away}"


def _name_mesh(mesh: dict[str, int]) -> str:
    """The axes with more than one device: "data=4", "fsdp=4", "data=2 fsdp=2"."""
    return " ".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "data=1"


def _write_inputs(inputs: Inputs) -> list[str]:
    rows = [
        ("images", f"{inputs.dtype} {'x'.join(map(str, inputs.shape))}"),
        ("values", f"{inputs.low:g} to {inputs.high:g}, mean {inputs.mean:.4g}, standard deviation {inputs.std:.4g}"),
    ]
    read = f"{inputs.images:,} of {inputs.total:,} training images, read in {inputs.seconds:.1f} s"
    return [f"Input: {read}", *_align(rows, "ll"), *_write_labels(inputs)]


def _write_labels(inputs: Inputs) -> list[str]:
    """A bar per class; the most and the least frequent ones if there are many."""
    if not inputs.labels:
        return []
    listed, title = list(range(len(inputs.labels))), "classes"
    if len(listed) > _CLASSES:
        ranked, half = sorted(listed, key=lambda label: -inputs.labels[label]), _CLASSES // 2
        listed = [*ranked[:half], *ranked[-half:]]
        title = f"classes, the {half} most and {half} least frequent of {len(ranked):,}"
    largest = max(1, *inputs.labels)
    counts = [inputs.labels[label] for label in listed]
    names = [_cut(inputs.name_class(label), 40) for label in listed]
    bars = ["#" * round(_BAR * count / largest) for count in counts]
    rows = list(zip(names, map("{:,}".format, counts), bars, strict=True))
    return [f"{_INDENT}{title}", *_align(rows, "lrl", indent=2)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _write_memory(findings: Findings) -> list[str]:
    rows = [("", "mesh", "arguments", "temporaries", "output", "code", "total", "")]
    rows += [_describe_program(program, findings.capacity) for program in findings.programs]
    refused = [each for each in findings.programs if each.refusal]
    refusals = [f"{each.name}, {_name_mesh(each.mesh)}: {each.refusal}" for each in refused]
    return ["Memory per device, as the compiler plans it", *_align(rows, "llrrrrrl"), *_wrap(refusals)]


def _describe_program(program: Program, capacity: int) -> tuple[str, str, str, str, str, str, str, str]:
    name, mesh, memory = program.name, _name_mesh(program.mesh), program.memory
    if memory is None:
        return name, mesh, "", "", "", "", "", "does not fit"
    sizes = memory.arguments, memory.temporaries, memory.output, memory.code, memory.total
    arguments, temporaries, output, code, total = map(format_bytes, sizes)
    return name, mesh, arguments, temporaries, output, code, total, _judge_total(memory.total, capacity)


def _judge_total(total: int, capacity: int) -> str:
    if not capacity:
        return ""
    left = capacity - total
    return f"fits, {format_bytes(left)} left" if left >= 0 else f"{format_bytes(-left)} too much"


def _write_shards(shards: Shards) -> list[str]:
    rows = [("", "arrays", "split", "size", "per device")]
    for part in (*shards.parts, shards.total):
        sizes = format_bytes(part.size), format_bytes(part.size_per_device)
        rows.append((part.name, f"{part.arrays:,}", f"{part.split:,}", *sizes))
    split = sorted((leaf for leaf in shards.leaves if any(leaf.split)), key=lambda leaf: -leaf.size)[:_ARRAYS]
    arrays = [
        (
            _cut(leaf.name, 50),
            leaf.dtype,
            " x ".join(f"{n}/{axis}" if axis else f"{n}" for n, axis in zip(leaf.shape, leaf.split, strict=True)),
        )
        for leaf in split
    ]
    head = [f"{_INDENT}largest split arrays"] if arrays else []
    return [f"State on {_name_mesh(shards.mesh)}", *_align(rows, "lrrrr"), *head, *_align(arrays, "lll", indent=2)]


def _write_disk(findings: Findings) -> list[str]:
    disk = findings.disk
    size, needed = format_bytes(disk.checkpoint), format_bytes(disk.needed)
    kept = f"{disk.kept} are kept, one more while it is written; {disk.present} are there"
    rows = [("a checkpoint", size, "uncompressed"), ("needed", needed, kept)]
    if disk.free is not None:
        rows.append(("free", format_bytes(disk.free), "in the file system of the workdir"))
    return ["Disk", *_align(rows, "lrl")]


def _write_time(findings: Findings) -> list[str]:
    speed, run = findings.speed, findings.run
    startup = [(name, f"{seconds:.1f} s", "") for name, seconds in findings.startup.items()]
    if speed is None or findings.seconds_left is None:
        return ["Time: no step was timed", *_align(startup, "lrl")]
    seconds, spread = speed.seconds, f"{min(speed.intervals):.3g} to {max(speed.intervals):.3g}"
    rates = (1, "steps/s"), (run.batch_size, "images/s"), (findings.flops, "FLOP/s")
    speeds = ", ".join(format_count(amount / seconds, unit) for amount, unit in rates)
    rows = [
        *startup,
        ("start-up", f"{sum(findings.startup.values()):.1f} s", "all of the above"),
        ("a step", f"{seconds:.3g} s", f"{spread}; {speeds}"),
        ("left", format_seconds(findings.seconds_left), f"{run.steps - run.start:,} steps, without {_BESIDE}"),
    ]
    return [f"Time, of {len(speed.intervals)} real steps", *_align(rows, "lrl")]


def _write_verdict(findings: Findings) -> list[str]:
    warnings = findings.find_warnings()
    return ["Warnings", *_wrap(warnings)] if warnings else ["No warnings."]


def _wrap(texts: Sequence[str]) -> list[str]:
    """Each text in lines that fit, the further ones indented."""
    lines = (textwrap.wrap(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=2 * _INDENT) for text in texts)
    return [line for each in lines for line in each]


def _align(rows: Sequence[Sequence[str]], sides: str, indent: int = 1) -> list[str]:
    """Rows as lines with aligned columns, each to the left (l) or to the right (r)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (_INDENT * indent + "  ".join(_pad(*cell) for cell in zip(row, widths, sides, strict=True))).rstrip()
        for row in rows
    ]


def _pad(text: str, width: int, side: str) -> str:
    return text.rjust(width) if side == "r" else text.ljust(width)
