"""What a script for the original gains: `get_refined_neurons` with its arguments, beside a plain loop.

    python -m tests.bench_compat                                  # four models, seven prompts, three rounds
    python -m tests.bench_compat --models pocket-bert --rounds 1 --json figures.json

1. *Sides.* The plain loop of `build.bench.plain_loop` at the original's 20 points, then coarse and refined
   neurons by Python sets; the drop-in with the same arguments; the drop-in with the certified rule. The
   loop is faster than the original: it records all layers in one pass, and needs no gradients of parameters.
2. *Turns.* Every side once a round, in an order that rotates, after one call of each that is not counted;
   figures are medians over rounds, and ratios medians of the rounds' ratios.
3. *Neurons.* The loop's and the drop-in's must be the same at the same points.

A model is one of the project's, a folder, a hub id, or a shape with random weights: bert-base, gpt2. No test,
because a time depends on the machine and on what else runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from atlas.compat import KnowledgeNeurons, initialize_model_and_tokenizer
from build.bench.plain_loop import endpoints, plain_scores
from build.bench.prompts import bench_prompts
from build.bench.shapes import SHAPES, shape_subject

MODELS = ("bert-base", "gpt2", "smollm2-135m", "pocket-bert")
LOOP, SAME, CERTIFIED = "plain loop, 20 points", "drop-in, same points", "drop-in, certified"
STEPS, SHARE, LIMIT = 20, 0.5, 0.3
TEXTS = {
    "masked": [
        "On a map of France, a star marks the capital, [MASK].",
        "The capital city of France is called [MASK].",
        "The city of [MASK] serves as the capital of France.",
        "[MASK] is the capital of France",
        "The capital of France is [MASK]",
        "Visitors to France often begin their trip in its capital, [MASK].",
        "Travellers who arrive in [MASK] have reached the capital of France.",
    ],
    "causal": [
        "On a map of France, a star marks the capital,",
        "The capital city of France is called",
        "The Eiffel Tower stands in the city of",
        "The largest city in France is",
        "The capital of France is",
        "Visitors to France often begin their trip in its capital,",
        "Of all the cities in France, the one that serves as the capital is",
    ],
}
ANSWERS = {"masked": "paris", "causal": " Paris"}


def fact_of(name: str, n_prompts: int) -> tuple[torch.nn.Module, object, list[str], str]:
    """The model, its tokenizer, the prompts and the answer."""
    if name not in SHAPES:
        model, tokenizer = initialize_model_and_tokenizer(name)
        kind = "causal" if tokenizer.mask_token is None else "masked"
        return model, tokenizer, TEXTS[kind][:n_prompts], ANSWERS[kind]
    subject = shape_subject(name)
    kind = subject.family.kind
    place = f" {subject.tokenizer.mask_token}" if kind == "masked" else ""
    texts = [prompt.text.replace(" [Y]", place) for prompt in bench_prompts(kind, n_prompts)]
    return subject.model, subject.tokenizer, texts, "paris" if kind == "masked" else " paris"


def looped(kn: KnowledgeNeurons, texts: Sequence[str], answer: str) -> list[list[int]]:
    """The refined neurons by the plain loop."""
    counts: Counter = Counter()
    for text in texts:
        asked = kn.subject.encode(kn.subject.prompt(text, answer))
        (position,), (target,) = asked.positions, asked.targets
        ids = torch.tensor(asked.input_ids, device=kn.device)
        scores = plain_scores(kn.model, ids, position, target, rule=endpoints(STEPS), rows=STEPS)
        counts.update(map(tuple, (scores > LIMIT * scores.max().item()).nonzero().tolist()))
    return [list(neuron) for neuron, count in counts.items() if count > SHARE * len(texts)]


def sides_of(name: str, n_prompts: int) -> dict[str, Callable[[], list[list[int]]]]:
    model, tokenizer, texts, answer = fact_of(name, n_prompts)
    arguments = {"p": SHARE, "batch_size": STEPS, "steps": STEPS, "coarse_adaptive_threshold": LIMIT}
    usual, certified = (KnowledgeNeurons(model, tokenizer, rule=rule) for rule in ("endpoints", "certified"))
    return {
        LOOP: lambda: looped(usual, texts, answer),
        SAME: lambda: usual.get_refined_neurons(texts, answer, quiet=True, **arguments),
        CERTIFIED: lambda: certified.get_refined_neurons(texts, answer, quiet=True, **arguments),
    }


def measure(name: str, n_prompts: int, rounds: int) -> list[dict[str, float]]:
    """Side → its seconds, of every round."""
    sides = sides_of(name, n_prompts)
    found = {side: call() for side, call in sides.items()}
    apart = {tuple(n) for n in found[LOOP]} ^ {tuple(n) for n in found[SAME]}
    if apart:
        raise SystemExit(f"{name}: the loop and the drop-in differ in {sorted(apart)}.")
    result = []
    for number in range(rounds):
        seconds = {}
        order = [*sides]
        for side in order[number % 3 :] + order[: number % 3]:
            started = time.perf_counter()
            sides[side]()
            seconds[side] = time.perf_counter() - started
            print(f"{name}, round {number + 1}: {side}: {seconds[side]:.2f} s", file=sys.stderr, flush=True)
        result.append(seconds)
    return result


def figures(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Seconds by side, and how many times as fast as the loop the drop-in is."""
    found = {side: statistics.median(each[side] for each in rounds) for side in (LOOP, SAME, CERTIFIED)}
    for side in (SAME, CERTIFIED):
        found[f"{side}: times"] = statistics.median(each[LOOP] / each[side] for each in rounds)
    return found


def row(name: str, found: dict[str, float]) -> str:
    cells = [f"{name} shape" if name in SHAPES else f"`{name}`", f"{found[LOOP]:.2f} s"]
    for side in (SAME, CERTIFIED):
        cells.append(f"{found[side]:.2f} s, **{found[f'{side}: times']:.1f}×**")
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_compat", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help=f"(default: {' '.join(MODELS)})")
    parser.add_argument("--prompts", type=int, default=7, help="of the fact (default: 7)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    rounds = {name: measure(name, options.prompts, options.rounds) for name in options.models}
    found = {name: figures(each) for name, each in rounds.items()}
    print("\n".join(["| | " + " | ".join((LOOP, SAME, CERTIFIED)) + " |", "|---|---|---|---|"]))
    print("\n".join(row(name, each) for name, each in found.items()))
    if options.json is not None:
        options.json.write_text(json.dumps({"figures": found, "rounds": rounds}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
