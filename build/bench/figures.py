"""Peak memory, each in a process that does nothing else.

    Peak.of(subject.device)                     # of this process so far
    alone(options, "--only", "plain")           # what a fresh process printed: a dictionary

A process's peak includes Python, torch and the weights; a GPU's is what torch had in use at most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import BuildError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Peak:
    """The most memory a process held, and the most of a GPU's, in bytes; None without a GPU."""

    process: int
    device: int | None = None

    @classmethod
    def of(cls, device: torch.device) -> Peak:
        import torch

        on_gpu = device.type == "cuda"
        return cls(peak_bytes(), torch.cuda.max_memory_allocated(device) if on_gpu else None)

    @property
    def shown(self) -> str:
        """The GPU's where there is one, for the process holds only copies there."""
        return f"{(self.process if self.device is None else self.device) / 1e9:.2f} GB"


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


def alone(options: argparse.Namespace, *what: str) -> dict[str, Any]:
    """What the benchmark printed in a fresh process that was told to do only this, on the same subject."""
    command = [sys.executable, "-m", "build.bench", *what]
    for name in ("steps", "prompts", "threads", "tolerance", "device", "dtype"):
        command += [f"--{name}", str(getattr(options, name))]
    if options.at_once is not None:
        command += ["--at-once", str(options.at_once)]
    command += ["--model", options.model] if options.model else ["--shape", options.shape]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["the process was ended, as when memory runs out."])[-1]
        remedy = "Try --no-memory." if what[0] == "--only" else "Leave the part scaling out."
        raise BuildError(f"'{what[-1]}' could not be measured in a process of its own: {last} {remedy}")
    return json.loads(done.stdout.splitlines()[-1])
