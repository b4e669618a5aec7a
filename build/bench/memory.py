"""Peak memory of one side, in a process that runs only that side."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from atlas.errors import BuildError


def peak_bytes() -> int:
    """The most memory this process ever held.

    Linux's VmHWM: ru_maxrss also counts what the process that started this one held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_of(side: str, options: argparse.Namespace) -> int:
    """Peak memory of `side` in a fresh process."""
    command = [sys.executable, "-m", "build.bench", "--only", side, "--steps", str(options.steps)]
    command += [
        "--prompts",
        str(options.prompts),
        "--threads",
        str(options.threads),
        "--tolerance",
        str(options.tolerance),
    ]
    command += ["--model", options.model] if options.model else ["--shape", options.shape]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BuildError(f"The memory of '{side}' could not be measured: {last} Try --no-memory.")
    return int(done.stdout.split()[-1])
