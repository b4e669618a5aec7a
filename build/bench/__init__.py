"""Times attribution on this machine, in parts that are asked for by name.

    python -m build bench --shape bert-base --prompts 8 --json bench.json
    python -m build bench --shape bert-base --parts projection --source pararel/data
    python -m build bench --shape gpt2 --parts scaling --device cuda

| part | module | says |
|---|---|---|
| `compare` | `comparison` | seconds, memory and points against the plain loop (`build.bench.plain_loop`) |
| `floor` | `floor` | operations a second against the machine's measured matrix-product rate |
| `projection` | `projection` | how long all of PARAREL would take, from a stratified sample |
| `scaling` | `scaling` | how time and memory grow with prompts, layers, length, batch |

A model is made from a config with random weights (`--shape`; no download), or loaded (`--model`). Random
weights cost the same time as trained ones, except that the certified rule stops where the paths allow it:
look at `points a layer`, and give `--model` to see a trained one's.
"""

from __future__ import annotations

from build.bench.cli import main

__all__ = ["main"]
