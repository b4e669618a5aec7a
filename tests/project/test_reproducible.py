"""The same inputs give the same bits: in another process, wherever memory happens to lie."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import ROOT

# Products of a small model's shapes, with their operands at 16 different alignments.
PRODUCTS = """
import {imports}
import hashlib, torch
torch.set_num_threads(1)
results = set()
for offset in range(16):
    random, digest = torch.Generator().manual_seed(0), hashlib.sha256()
    for n, k, m in ((7, 128, 2048), (24, 2048, 128), (1, 2048, 128), (33, 96, 257)):
        a = torch.empty(n * k + 16)[offset : offset + n * k].view(n, k)
        b = torch.empty(k * m + 48)[3 * offset : 3 * offset + k * m].view(k, m)
        a.copy_(torch.randn(n, k, generator=random))
        b.copy_(torch.randn(k, m, generator=random))
        digest.update((a @ b).numpy().tobytes())
    results.add(digest.hexdigest())
print(*sorted(results))
"""


def results(imports: str, **environment: str) -> list[str]:
    """The different results of one process that imports these."""
    usual = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS.format(imports=imports)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=usual | environment,
    )
    return done.stdout.split()


def test_two_processes_with_differently_aligned_memory_give_equal_bits():
    first, second = results("atlas"), results("torch, atlas")
    assert len(first) == 1
    assert first == second


@pytest.mark.parametrize("chosen", ["COMPATIBLE", "AVX2"])
def test_what_the_user_has_set_stays(chosen: str):
    code = "import os, atlas; print(os.environ['MKL_CBWR'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"MKL_CBWR": chosen},
    )
    assert done.stdout.strip() == chosen
