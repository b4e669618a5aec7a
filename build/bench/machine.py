"""What the figures were taken on, and a clock that waits for the GPU."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from atlas.surgery.subject import Subject


def now(device: torch.device) -> float:
    """Seconds; what was asked of a GPU is done by then."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def machine(subject: Subject, threads: int) -> dict[str, Any]:
    """Processor, GPU, versions, and the precision in which the subject computes."""
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    on_gpu = subject.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(subject.device) if on_gpu else "cpu",
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "transformers": transformers.__version__,
        "dtype": subject.dtype,
    }
