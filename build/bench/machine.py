"""What every benchmark shares: a clock, turns, a process of its own, the machine's name.

seconds, result = timed(work, device)
run_in_turn(sides, 3, say)                  # side → (seconds, result); another side begins each turn
run_alone(function, *arguments)             # in a process that does nothing else
peak_memory(device)                         # of this process so far, in bytes
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from atlas.errors import BuildError

if TYPE_CHECKING:
    import torch

    from atlas.surgery.subject import Subject

CHECKOUT = Path(__file__).resolve().parents[2]  # the checkout
_T = TypeVar("_T")
Say = Callable[[str], None]


def timed(work: Callable[[], _T], device: torch.device | None = None) -> tuple[float, _T]:
    """The seconds that `work` takes, until a GPU is done with it, and what it returns."""
    start = now(device)
    result = work()
    return now(device) - start, result


def now(device: torch.device | None = None) -> float:
    """Seconds, when the GPU has done what it was asked."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def run_in_turn(
    sides: Mapping[str, Callable[[], _T]], turn: int, say: Say, device: torch.device | None = None
) -> dict[str, tuple[float, _T]]:
    """Time every side once, the one whose turn it is first: a machine that slows down slows all of them."""
    first = turn % len(sides)
    order = [*sides][first:] + [*sides][:first]
    found = {}
    for side in order:
        found[side] = timed(sides[side], device)
        say(f"{turn + 1} · {side}: {found[side][0]:.2f} s")
    return found


def run_alone(function: Callable[..., _T], *arguments: Any, remedy: str = "") -> _T:
    """What the function returns in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise BuildError(
                f"The process that measured '{arguments[-1]}' was ended, as when memory runs out. {remedy}"
            ) from None


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """The most bytes that this process held, Python, torch and weights included, and the most of a GPU's."""
    import torch

    on_gpu = device.type == "cuda"
    return {
        "process": peak_bytes(),
        "device": torch.cuda.max_memory_allocated(device) if on_gpu else None,
    }


def peak_bytes(pid: int | None = None) -> int:
    """The most that a process, by default this one, ever held; 0 where the system does not say."""
    status = Path(f"/proc/{pid or 'self'}/status")
    if status.exists():  # ru_maxrss also counts what the process that started this one held
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    if pid is not None:
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine_load() -> str:
    """A sentence that says how busy the machine is."""
    return f"Load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."


def describe_machine(subject: Subject, threads: int) -> dict[str, Any]:
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
