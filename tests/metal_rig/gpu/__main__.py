"""The kernels on an NVIDIA GPU.

On any machine with clang (and ptxas, if the driver is not to compile PTX itself):
  python -m metal_rig.gpu build ARCHIVE
On the machine with the GPU, which needs Python and the driver, and compute-sanitizer for sanitize:
  python -m metal_rig.gpu run ARCHIVE --output FOLDER [check] [sanitize] [measure]
Then, anywhere:
  python -m metal_rig.gpu merge EARLIER.json FOLDER/gpu.json    (after a run with --only)
  python -m metal_rig.gpu report FOLDER/gpu.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from metal_rig.gpu import build, driver, measure, merge, planted, report, sanitize
from metal_rig.gpu.kernels import ARCHIVE_VARIABLE
from metal_rig.msl.recording import recorded
from metal_rig.msl.runner import TARGET_VARIABLE

STAGES = ("check", "measure", "sanitize")


def check() -> dict[str, Any]:
    """The kernel tests on the GPU, every kernel five times."""
    options = ["-q", "-n", "8", "-p", "no:cacheprovider", "--confcutdir=tests/metal_rig"]
    command = [sys.executable, "-m", "pytest", *options, *build.KERNEL_TESTS]
    result = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=False)
    print(result.stdout[-6000:], result.stderr[-2000:], flush=True)
    return {"exit": result.returncode, "summary": result.stdout.strip().splitlines()[-1]}


def run(options: argparse.Namespace) -> int:
    os.environ |= {ARCHIVE_VARIABLE: str(options.archive.resolve()), TARGET_VARIABLE: "nvptx"}
    now = datetime.datetime.now(datetime.timezone.utc)
    results: dict[str, Any] = {"date": now.date().isoformat(), "run": f"{now:%Y-%m-%d %H:%M}"}
    results["gpu"] = driver.device_name()
    results["cores"] = driver.n_cores()
    for stage in options.stages or STAGES:
        start = time.monotonic()
        try:
            if stage == "check":
                results[stage] = check()
            elif stage == "measure":
                results[stage] = measure.measure(options.variant, options.only, options.peers)
            else:
                results[stage] = sanitize.sanitize(options.sanitize)
        except Exception:  # the other stages are worth having
            results[stage] = traceback.format_exc()
            print(results[stage])
        print(f"[{stage}: {time.monotonic() - start:.0f} s]", flush=True)
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "gpu.json").write_text(json.dumps(results, indent=1))
    print(report.table(results))
    return 0


def build_archive(options: argparse.Namespace) -> int:
    cases = measure.cases(options.variant, options.only, options.peers)
    units = [u for case in cases for u in case.units()]
    if options.only is None:
        units += [u for plant in planted.plants() for u in plant.units]
    if options.recorded is not None:
        units += recorded(options.recorded)
    elif options.only is None:
        with tempfile.TemporaryDirectory() as folder:
            build.record_tests(Path(folder))
            units += recorded(Path(folder))
    print(f"{build.build(units, options.archive)} kernels in {options.archive}")
    return 0


def merge_results(options: argparse.Namespace) -> None:
    """Into the earlier results' file."""
    parts = (json.loads(file.read_text()) for file in (options.earlier, options.results))
    options.earlier.write_text(json.dumps(merge.merged(*parts), indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    builder = commands.add_parser("build")
    builder.add_argument("archive", type=Path)
    builder.add_argument("--recorded", type=Path, help="a folder of METAL_RIG_RECORD")
    builder.set_defaults(command=build_archive)
    runner = commands.add_parser("run")
    runner.add_argument("archive", type=Path)
    runner.add_argument("stages", nargs="*", choices=[*STAGES, []])
    runner.add_argument("--output", type=Path, default=Path())
    runner.add_argument(
        "--sanitize", type=re.compile, metavar="PATTERN", help="only these tests and mistakes"
    )
    runner.set_defaults(command=run)
    for command in (builder, runner):
        command.add_argument("--peers", type=Path, help="a folder with other projects' sources")
        command.add_argument("--only", type=re.compile, help="pattern: measure only these cases")
        command.add_argument(
            "--variant", action="append", default=[], metavar="LABEL=FOLDER", help="other shaders"
        )
    merger = commands.add_parser("merge")
    merger.add_argument("earlier", type=Path, help="results that are written anew")
    merger.add_argument("results", type=Path, help="of a run of a part")
    merger.set_defaults(command=merge_results)
    writer = commands.add_parser("report")
    writer.add_argument("results", type=Path)
    writer.set_defaults(command=lambda o: print(report.page(json.loads(o.results.read_text()))))
    options = parser.parse_args()
    return int(options.command(options) or 0)


if __name__ == "__main__":
    sys.exit(main())
