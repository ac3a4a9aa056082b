"""What the devices exchange in a compiled program, read from its text."""

import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
# name = result kind(operands): an asynchronous one has a start and a done, whose result is the whole.
_LINE = re.compile(rf"= (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(-done)?\(")
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,]*)\]")


class Collective(NamedTuple):
    """One exchange: its kind, and the bytes of its result on each device."""

    kind: str
    size: int


def find_collectives(text: str) -> list[Collective]:
    """The exchanges of a program in HLO's text form. One in a loop is listed once.

    >>> find_collectives("%a = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce(%x, %y), channel_id=1")
    [Collective(kind='all-reduce', size=32)]
    """
    found = (_LINE.search(line) for line in text.splitlines())
    return [Collective(line["kind"], sum(_sizes(line["result"]))) for line in found if line]


def _sizes(result: str) -> Iterator[int]:
    for array in _ARRAY.finditer(result):
        count = 1
        for side in filter(None, array["shape"].split(",")):
            count *= int(side)
        yield count * _BYTES[array["dtype"]]


def sum_sizes(found: list[Collective]) -> dict[str, int]:
    """Bytes by kind, of those that occur."""
    kinds = dict.fromkeys(each.kind for each in found)
    return {kind: sum(each.size for each in found if each.kind == kind) for kind in sorted(kinds)}


def count_sent(found: list[Collective], devices: int) -> float:
    """Bytes that each device sends if all exchanges go around a ring.

    n devices send (n - 1)/n of an array to gather it, as much to reduce and scatter it, and twice as much to reduce it
    to a copy on each (Patarasuk and Yuan 2009). The result of a scatter is one n-th of the array.

    >>> count_sent([Collective("all-reduce", 100)], devices=4)
    150.0
    """
    share = (devices - 1) / devices
    factor = {"all-reduce": 2 * share, "all-gather": share, "reduce-scatter": share * devices, "all-to-all": share}
    return sum(factor.get(each.kind, 1.0) * each.size for each in found)
