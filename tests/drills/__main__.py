"""Real faults on a small run: kills, signals, damage, full disks, lost processes, other layouts, a long run, a bucket.

    python tests/drills            # everything, about 20 minutes on 2 cores
    python tests/drills --short    # a few cases of each drill, about 3 minutes
    python tests/drills kills disk

Prints how many faults were tried and how many were survived: the run ended with the same bits as without the fault, or
refused in one line and lost nothing. What was lost is described below the table; then the exit status is 1.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import bucket
import damage
import disk
import kills
import layouts
import lost_processes
import signals
import soak

DRILLS = {
    "kills": kills.drill,
    "signals": signals.drill,
    "damage": damage.drill,
    "disk": disk.drill,
    "processes": lost_processes.drill,
    "layouts": layouts.drill,
    "soak": soak.drill,
    "bucket": bucket.drill,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=f"some of {', '.join(DRILLS)}; default: all")
    parser.add_argument("--short", action="store_true", help="a few cases of each")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and places (default: 0)")
    arguments = parser.parse_args()
    if unknown := set(arguments.drills) - set(DRILLS):
        parser.error(f"unknown drill {min(unknown)}; use some of {', '.join(DRILLS)}")

    lost = []
    print("| drill | tried | survived | lost | seconds | slowest end |\n|---|---|---|---|---|---|", flush=True)
    for name in arguments.drills or DRILLS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"drill_{name}_") as scratch:
            outcomes = list(DRILLS[name](Path(scratch), arguments.short, arguments.seed))
        failed = [outcome for outcome in outcomes if outcome.problem]
        seconds, slowest = time.monotonic() - start, max(outcome.seconds for outcome in outcomes)
        counts = f"{len(outcomes)} | {len(outcomes) - len(failed)} | {len(failed)}"
        print(f"| {name} | {counts} | {seconds:.0f} | {slowest:.1f} s |", flush=True)
        lost += [f"{name}: {outcome.case}: {outcome.problem}" for outcome in failed]
    print("", *lost, sep="\n")
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
