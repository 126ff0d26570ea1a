"""Instructions of a fixed decode step, a figure that a machine's noise does not touch.

    python benchmarks/instruction_count.py            # compare with the stored figure
    python benchmarks/instruction_count.py --update   # store what was counted
    python benchmarks/instruction_count.py --profile  # what timers and traces add

``quarrel-bench --op decode_step`` runs under valgrind's callgrind, one thread, AVX2, and only the
steps themselves are counted. The figure belongs to one compiler: instruction_count.json has one
entry for each that somebody has counted with.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

STORED = Path(__file__).with_suffix(".json")
TOLERANCE = 0.02
STEPS = 4
ISA = "avx2"
WORK = ["--op", "decode_step", "--depth", "128", "--batch", "1", "--threads", "1"]
LIMITS = ["--isa", ISA, "--repeat", str(STEPS), "--bandwidth-mib", "0", "-o", "json"]


class CannotCountError(Exception):
    """One sentence that says what is missing."""


def find_binary() -> Path:
    """``quarrel-bench`` beside this Python, or else on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "quarrel-bench"
    found = str(beside) if beside.exists() else shutil.which("quarrel-bench")
    if found is None:
        raise CannotCountError("quarrel-bench is not installed: pip install . brings it")
    return Path(found)


def describe(binary: Path) -> dict[str, str]:
    """What ``--version`` says: compiler, processor, build, isas."""
    out = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    return dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)


def stored_count(binary: Path) -> int | None:
    """Instructions per step, or nothing for a compiler that nobody has counted with."""
    about = describe(binary)
    for entry in json.loads(STORED.read_text())["counts"]:
        if all(entry[key] == about[key] for key in ("compiler", "processor", "build")):
            return int(entry["instructions_per_step"])
    return None


def count(binary: Path, profiling: str = "off") -> int:
    """Instructions per step, with profiling ``off``, ``timers`` or ``trace``.

    Raises:
        CannotCountError: there is no valgrind, or the binary cannot run AVX2 under it.
    """
    if shutil.which("valgrind") is None:
        raise CannotCountError("valgrind is not installed: apt install valgrind")
    if ISA not in describe(binary)["isas"].split(","):
        raise CannotCountError(f"this machine or build has no {ISA}")
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "callgrind.out"
        tool = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={profile}"]
        tool += ["--collect-atstart=no", "--toggle-collect=quarrel_bench_measured"]
        result = subprocess.run(
            [*tool, binary, *WORK, *LIMITS, "--profile", profiling],
            check=True,
            capture_output=True,
            text=True,
            timeout=250,
        )
        (row,) = json.loads(result.stdout)
        if row["note"] is not None:
            raise CannotCountError(f"the step does not run under valgrind: {row['note']}")
        total = re.search(r"^totals: (\d+)", profile.read_text(), re.MULTILINE)
    if total is None or int(total[1]) == 0:
        raise CannotCountError("callgrind has counted nothing: it did not find the measured part")
    return int(total[1]) // STEPS


def update(binary: Path, instructions: int) -> None:
    about = describe(binary)
    key = {name: about[name] for name in ("compiler", "processor", "build")}
    record = json.loads(STORED.read_text())
    others = [e for e in record["counts"] if any(e[name] != key[name] for name in key)]
    record["counts"] = [*others, {**key, "instructions_per_step": instructions}]
    STORED.write_text(json.dumps(record, indent=2) + "\n")


def print_profiling_cost(binary: Path) -> int:
    """1 where a trace costs as much as noise may or more."""
    off = count(binary)
    print(f"off    {off:>10} instructions per step")
    for profiling in ("timers", "trace"):
        n = count(binary, profiling)
        print(f"{profiling:<6} {n:>10}  {n / off - 1:+.2%}")
    return int(n > off * (1 + TOLERANCE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="store what is counted")
    parser.add_argument("--profile", action="store_true", help="what timers and traces add")
    parser.add_argument("--binary", type=Path, help="quarrel-bench, if not the installed one")
    arguments = parser.parse_args()
    try:
        binary = arguments.binary or find_binary()
        if arguments.profile:
            return print_profiling_cost(binary)
        instructions = count(binary)
    except CannotCountError as error:
        print(f"instruction_count: {error}.", file=sys.stderr)
        return 1
    expected = stored_count(binary)
    print(f"{instructions} instructions per step with {describe(binary)['compiler']}")
    if arguments.update:
        update(binary, instructions)
    elif expected is None:
        print("nothing is stored for this compiler; --update stores it")
    else:
        change = instructions / expected - 1
        print(f"stored: {expected}; change {change:+.2%}, at most ±{TOLERANCE:.0%} is noise")
        return int(abs(change) > TOLERANCE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
