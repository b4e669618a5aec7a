"""The devices that a model runs on, by name; names are checked without torch.

check_device("cuda:1")       # ModelError for a name that is no device's
device_of("auto")            # torch's device: a GPU where there is one, else the CPU
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from atlas.errors import ModelError
from atlas.validation import one_line

if TYPE_CHECKING:
    import torch

_NAMES = re.compile(r"auto|cpu|mps|cuda(:\d{1,4})?")


def check_device(name: str) -> None:
    """Raises `ModelError` for a name that is no device's, whether or not this machine has the device."""
    if not _NAMES.fullmatch(name):
        raise ModelError(f"There is no device '{one_line(name, 40)}'. Use auto, cpu, cuda, cuda:1 or mps.")


def device_of(device: str | torch.device | None = "auto") -> torch.device:
    """The device of that name; `auto` or None: CUDA's or Apple's GPU where there is one, else the CPU.

    Raises `ModelError` where this machine does not have it.
    """
    import torch

    name = "auto" if device is None else str(device)
    check_device(name)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    target = torch.device(name)
    if target.type == "cuda" and not has_cuda:
        raise ModelError("There is no CUDA device. Use --device cpu.")
    if target.type == "mps" and not has_mps:
        raise ModelError("There is no Apple GPU (mps). Use --device cpu.")
    if (target.index or 0) >= max(1, torch.cuda.device_count()):
        raise ModelError(f"There is no {name}: CUDA has {torch.cuda.device_count()} devices, from cuda:0.")
    return target
