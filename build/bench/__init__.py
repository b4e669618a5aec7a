"""Times attribution against the plain loop on this machine, and weighs the memory of both.

    python -m build bench --shape bert-base --prompts 8 --json bench.json

1. A model is made from a config with random weights (`--shape`; no download), or loaded (`--model`).
2. For each prompt, in an order that rotates from prompt to prompt: the plain loop (`build.plain_loop`: one
   layer at a time, every token through the whole model, one batch of the rule's points a layer), the
   staircase with the same points, and the certified default. In between, three times, the staircase with
   all prompts in one call, as the builder asks: seconds divided by prompts. The plain loop knows no batches.
3. Medians, their ratios, the points a layer needed, and how far the scores lie apart.
4. Peak memory of each side in a process of its own, which loads the same things and runs only that side.

Random weights cost the same time as trained ones, except that the certified rule stops where the paths allow
it: look at `points a layer`, and give `--model` to see a trained one's.
"""

from __future__ import annotations

from build.bench.cli import main

__all__ = ["main"]
