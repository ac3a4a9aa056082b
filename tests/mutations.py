"""Mutation testing: changes one line of the package at a time and reports the changes that no test notices.

    pip install -e ".[test,mutation]" && python tests/mutations.py

The mutations are mutmut's (operators swapped, numbers plus one, conditions turned, flags flipped) and three of this
file: a call statement, an argument or an entry of a list removed. mutmut's replacements by None are not used: nearly
all of them crash, which would flatter the result. Nor is its runner, which skips decorated functions and forks, which
JAX does not survive.

Left out are changes that tests cannot or should not notice: annotations, imports, `__all__`, strings, the contents
of `raise` and of calls that log, large floats plus one, and `zip(strict=True)`.

The sample is fixed: the lines whose path and text have the lowest hashes. It stays the same where the code does.
"""

import argparse
import ast
import difflib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("process", "sampling", "training", "workdir", "runtime")
# Tests outside a module's room that run it as well.
ELSEWHERE = {
    "sampling": ["verify/test_samplers.py", "run/test_run.py"],
    "training": ["workdir/test_session.py"],
    "workdir": ["cli/test_train.py"],
    "runtime": ["workdir/test_session.py", "run/test_run.py", "workdir/test_bucket.py", "test_processes.py"],
}
_LONGEST = 1800.0  # seconds for the slow tests, which are run where the others notice nothing
LOGGING = {"debug", "info", "warning", "error", "exception", "warn", "print"}


def remove_call(node: cst.Expr) -> Iterator[cst.Pass]:
    """`flush()` -> `pass`"""
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def remove_argument(node: cst.Call) -> Iterator[cst.Call]:
    """`f(a, b, c=d)` -> `f(a, b)`, `f(a, c=d)`. Without any other positional argument most calls just crash."""
    positional = [arg for arg in node.args if not arg.keyword]
    for index, arg in enumerate(node.args):
        if not is_excluded(arg) and (arg.keyword or arg is positional[-1]) and len(node.args) > 1:
            yield node.with_changes(args=[*node.args[:index], *node.args[index + 1 :]])


def remove_entry(node: cst.Tuple | cst.List | cst.Set) -> Iterator[cst.CSTNode]:
    """`[a, b, c]` -> `[b, c]`, `[a, c]`, `[a, b]`. Most pairs are unpacked and would just crash."""
    for index in range(len(node.elements) if len(node.elements) > 2 else 0):
        yield node.with_changes(elements=[*node.elements[:index], *node.elements[index + 1 :]])


OPERATORS = [
    (cst.BaseNumber, mutators.operator_number),
    (cst.Name, mutators.operator_name),
    (cst.AugAssign, mutators.operator_augmented_assignment),
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.CSTNode, mutators.operator_keywords),
    (cst.CSTNode, mutators.operator_swap_op),
    (cst.IfExp, mutators.operator_if_exp),
    (cst.Expr, remove_call),
    (cst.Call, remove_argument),
    ((cst.Tuple, cst.List, cst.Set), remove_entry),
]


def is_excluded(node: cst.CSTNode) -> bool:
    """Whether to leave out `node` with all that is inside it."""
    match node:
        case cst.Annotation() | cst.Import() | cst.ImportFrom() | cst.Raise() | cst.BaseString() | cst.AssignTarget():
            return True
        case cst.Assign([cst.AssignTarget(cst.Name("__all__"))]) | cst.Arg(keyword=cst.Name("strict")):
            return True
        case cst.Expr(cst.Call(cst.Name(name) | cst.Attribute(attr=cst.Name(name)))):
            return name in LOGGING
        case cst.Float(value):
            return float(value) >= 1000
    return False


class Collector(cst.CSTVisitor):
    """Gathers what can be done to each line: line -> [(name of the operator, node, replacement)]."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, list[tuple[str, cst.CSTNode, cst.CSTNode]]] = {}

    def on_visit(self, node: cst.CSTNode) -> bool:
        if is_excluded(node):
            return False
        place = self.get_metadata(PositionProvider, node, None)
        if place and place.start.line == place.end.line:
            for kind, operator in OPERATORS:
                for new in operator(node) if isinstance(node, kind) else ():
                    self.lines.setdefault(place.start.line, []).append((operator.__name__, node, new))
        return True


class Mutation(NamedTuple):
    path: Path  # relative to ROOT
    line: int
    operator: str
    code: str  # the whole mutated file


def mutations(paths: Iterable[Path], seed: int) -> Iterator[Mutation]:
    """One mutation of each line that has any, in the fixed order."""
    ranked = []
    for path in paths:
        text = (ROOT / path).read_text()
        wrapper = MetadataWrapper(cst.parse_module(text))
        wrapper.visit(collector := Collector())
        for line, found in collector.lines.items():
            digest = hashlib.sha256(f"{seed} {path} {text.splitlines()[line - 1]}".encode()).digest()
            ranked.append((int.from_bytes(digest), line, path, wrapper.module, found))
    for rank, line, path, module, found in sorted(ranked, key=lambda each: each[:2]):
        operators = sorted({operator for operator, _, _ in found})
        operator = operators[rank % len(operators)]  # first, because a call has many arguments to drop
        changes = [(node, new) for name, node, new in found if name == operator]
        code = module.deep_replace(*changes[rank // len(operators) % len(changes)]).code
        if ast.dump(ast.parse(code)) != ast.dump(ast.parse(module.code)):
            yield Mutation(path, line, operator, code)


def related_tests(path: Path) -> list[str]:
    """The tests of a module: first the file that mirrors it, then those of its package, then the rest of its room."""
    _, room, *inner = path.with_suffix("").parts
    tests, found = ROOT / "tests", []
    for depth in range(len(inner), -1, -1):
        place = tests / Path(room, *inner[:depth])
        found += [place.with_name(f"test_{place.name}.py"), place / f"test_{place.name}.py"]
        found += sorted(place.rglob("test_*.py"))
    found += [tests / name for name in ELSEWHERE.get(room, [])]
    return [str(each.relative_to(ROOT)) for each in dict.fromkeys(found) if each.exists()]


def copy_checkout(target: Path) -> Path:
    """Copies the files that git tracks or would add."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.splitlines():
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def passes(checkout: Path, arguments: Iterable[str], limit: float | None = None) -> bool:
    """Whether the tests pass in `checkout` within `limit` seconds; they do where none is selected."""
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    with (checkout / "output.log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return process.wait(limit) in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and the processes that the tests started
            return process.wait() == 0


def measure_room(room: str, sample: list[Mutation], checkout: Path) -> float:
    """Seconds that the room's tests take; fills the compile cache. They must pass without a mutation."""
    tests = dict.fromkeys(test for it in sample if room in it.path.parts for test in related_tests(it.path))
    start = time.monotonic()
    if not passes(checkout, tests):
        sys.exit(f"the tests of {room} fail without a mutation:\n{(checkout / 'output.log').read_text()}")
    print(f"{room}: {len(tests)} test files, {time.monotonic() - start:.0f} s", flush=True)
    return time.monotonic() - start


def survives(mutation: Mutation, checkout: Path, limit: float) -> bool:
    target, start = checkout / mutation.path, time.monotonic()
    original = target.read_text()
    target.write_text(mutation.code)
    try:
        tests = related_tests(mutation.path)
        survived = passes(checkout, tests, limit) and passes(checkout, ["-m", "slow", *tests], _LONGEST)
    finally:
        target.write_text(original)
    took = f"{'SURVIVED' if survived else 'died'} in {time.monotonic() - start:.0f} s"
    print(took, f"{mutation.path}:{mutation.line}", mutation.operator, flush=True)
    return survived


def diff(mutation: Mutation) -> str:
    before = (ROOT / mutation.path).read_text().splitlines()
    return "\n".join(difflib.unified_diff(before, mutation.code.splitlines(), str(mutation.path), "", lineterm="", n=2))


def run(sample: list[Mutation], workers: int, scratch: Path) -> list[Mutation]:
    """The mutations that survive. Each worker has a copy of the checkout; all share one compile cache."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(scratch / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    own = threading.local()

    def prepare() -> None:
        own.checkout = copy_checkout(scratch / str(threading.get_ident()))

    with ThreadPoolExecutor(workers, initializer=prepare) as pool:
        rooms = sorted({it.path.parts[1] for it in sample})
        seconds = dict(zip(rooms, pool.map(lambda room: measure_room(room, sample, own.checkout), rooms), strict=True))
        limits = [60 + 3 * seconds[it.path.parts[1]] for it in sample]
        survived = pool.map(lambda it, limit: survives(it, own.checkout, limit), sample, limits)
        return list(itertools.compress(sample, survived))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=100, help="how many mutations (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the sample (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="mutations tested at the same time (default: 2)")
    parser.add_argument("--rooms", nargs="*", default=ROOMS, help="packages of diffusion_jax to mutate")
    parser.add_argument("--list", action="store_true", help="print the sample and the tests of each, and stop")
    arguments = parser.parse_args()

    files = sorted(path for room in arguments.rooms for path in (ROOT / "diffusion_jax" / room).rglob("*.py"))
    found = mutations([path.relative_to(ROOT) for path in files], arguments.seed)
    sample = list(itertools.islice(found, arguments.number))
    if arguments.list:
        for mutation in sample:
            print(f"{diff(mutation)}\n# {mutation.operator}: {' '.join(related_tests(mutation.path))}\n")
        return
    with tempfile.TemporaryDirectory() as scratch:
        survivors = run(sample, arguments.workers, Path(scratch))
    print("", *map(diff, survivors), sep="\n\n")
    died = len(sample) - len(survivors)
    print(f"\n{died} of {len(sample)} mutations died ({died / max(len(sample), 1):.0%})")


if __name__ == "__main__":
    main()
