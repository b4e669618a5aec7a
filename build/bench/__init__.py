"""Times what the project does on this machine. Development tools: they run in a checkout.

    python -m build bench --shape bert-base --prompts 8 --json bench.json
    python -m build bench --shape bert-base --parts projection --source pararel/data
    python -m build bench --shape gpt2 --parts scaling --device cuda
    python -m build bench app

| what | module | says |
|---|---|---|
| `--parts compare` | `sides` | seconds, memory and points against the plain loop (`plain_loop`) |
| `--parts floor` | `floor` | operations a second against the machine's measured matrix-product rate |
| `--parts projection` | `projection` | how long all of PARAREL would take, from a stratified sample |
| `--parts scaling` | `scaling` | how time and memory grow with prompts, layers, length, batch |
| `compat` | `compat` | what a script for the original package gains |
| `precision` | `precision` | what rounded matrix products cost |
| `executors` | `executors` | what Ray costs |
| `app` | `app` | how long the server takes to draw a page |
| `load` | `load` | how long honest visitors wait, beside hostile ones (`attacks`), and the app's memory |
| `reading` | `reading` | how long questions to 30 million pairs take |

All share a clock, turns and processes of their own (`machine`), the model of a shape or a name (`models`),
and one way to show and keep figures (`figures`). Random weights cost the same time as trained ones, except
that the certified rule stops where the paths allow it: look at `points a layer`, and give `--model` to see a
trained one's.
"""

from __future__ import annotations

from build.bench.cli import main

__all__ = ["main"]
