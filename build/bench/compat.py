"""What a script for the original gains: `get_refined_neurons` with its arguments, beside a plain loop.

1. *Sides.* The plain loop of `build.bench.plain_loop` at the original's 20 points, then coarse and refined
   neurons by Python sets; the drop-in with the same arguments; the drop-in with the certified rule. The
   loop is faster than the original: it records all layers in one pass, and needs no gradients of parameters.
2. *Turns.* Every side once a round, in an order that rotates, after one call of each that is not counted;
   figures are medians over rounds, and ratios medians of the rounds' ratios.
3. *Neurons.* The loop's and the drop-in's must be the same at the same points.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from atlas.compat import KnowledgeNeurons
from atlas.errors import BuildError
from atlas.neuron import OBJECT_SLOT
from build.bench.figures import markdown_table, write_json
from build.bench.machine import Say, run_in_turn
from build.bench.models import named_subject
from build.bench.prompts import bench_prompts
from build.bench.shapes import SHAPES
from build.bench.sides import plain_attribution
from build.plan import BuildOptions, make_plan

LOOP, SAME, CERTIFIED = "plain loop, 20 points", "drop-in, same points", "drop-in, certified"
STEPS, SHARE, LIMIT = 20, 0.5, 0.3


def texts_of_fact(name: str, kind: str, n: int) -> tuple[list[str], str]:
    """Texts with the answer left out, and the answer: of a shape's words, else of the starter facts."""
    if name in SHAPES:
        prompts = bench_prompts(kind, n)
    else:
        plan = make_plan(BuildOptions(model=name, dataset="starter", relations=("P36",)))
        [france] = [fact for fact in plan.facts if fact.subject == "France"]
        prompts = [prompt for prompt, _ in plan.prompts_of(france)][:n]
    return [prompt.text for prompt in prompts], prompts[0].answer


def refine_by_loop(kn: KnowledgeNeurons, texts: Sequence[str], answer: str) -> list[list[int]]:
    """The refined neurons by the plain loop."""
    counts: Counter = Counter()
    for text in texts:
        scores = plain_attribution(kn.subject, kn.subject.prompt(text, answer), STEPS)
        counts.update(map(tuple, torch.from_numpy(scores > LIMIT * scores.max()).nonzero().tolist()))
    return [list(neuron) for neuron, count in counts.items() if count > SHARE * len(texts)]


def sides_of(name: str, n_prompts: int) -> dict[str, Callable[[], list[list[int]]]]:
    """The three ways to the refined neurons of one fact."""
    subject = named_subject(name)
    masked = subject.family.kind == "masked"
    texts, answer = texts_of_fact(name, subject.family.kind, n_prompts)
    slot = (OBJECT_SLOT, subject.tokenizer.mask_token) if masked else (f" {OBJECT_SLOT}", "")
    texts = [text.replace(*slot).removesuffix("" if masked else ".") for text in texts]
    answer = answer if masked else f" {answer}"
    usual, certified = (
        KnowledgeNeurons(subject.model, subject.tokenizer, rule=rule) for rule in ("endpoints", "certified")
    )
    arguments = {"p": SHARE, "batch_size": STEPS, "steps": STEPS, "coarse_adaptive_threshold": LIMIT}
    return {
        LOOP: partial(refine_by_loop, usual, texts, answer),
        SAME: partial(usual.get_refined_neurons, texts, answer, quiet=True, **arguments),
        CERTIFIED: partial(certified.get_refined_neurons, texts, answer, quiet=True, **arguments),
    }


def time_model(name: str, n_prompts: int, n_rounds: int, say: Say) -> list[dict[str, float]]:
    """Side → its seconds, of every round."""
    sides = sides_of(name, n_prompts)
    found = {side: {tuple(neuron) for neuron in call()} for side, call in sides.items()}
    if found[LOOP] != found[SAME]:
        apart = sorted(found[LOOP] ^ found[SAME])
        raise BuildError(f"The loop and the drop-in find different neurons for {name}: {apart}.")
    rounds = (run_in_turn(sides, turn, say) for turn in range(n_rounds))
    return [{side: seconds for side, (seconds, _) in each.items()} for each in rounds]


def medians_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Seconds by side, and how many times as fast as the loop the drop-in is."""
    found = {side: statistics.median(each[side] for each in rounds) for side in (LOOP, SAME, CERTIFIED)}
    for side in (SAME, CERTIFIED):
        found[f"{side}: times"] = statistics.median(each[LOOP] / each[side] for each in rounds)
    return found


def compare_drop_in(
    names: Sequence[str], n_prompts: int, n_rounds: int, threads: int, json: Path | None, say: Say
) -> None:
    """Time every model, print the table and keep it as JSON."""
    torch.set_num_threads(threads)
    rounds = {name: time_model(name, n_prompts, n_rounds, say) for name in names}
    figures = {name: medians_of(each) for name, each in rounds.items()}
    rows = [
        (
            f"{name} shape" if name in SHAPES else f"`{name}`",
            f"{found[LOOP]:.2f} s",
            *(f"{found[side]:.2f} s, **{found[f'{side}: times']:.1f}×**" for side in (SAME, CERTIFIED)),
        )
        for name, found in figures.items()
    ]
    print(markdown_table(("", LOOP, SAME, CERTIFIED), rows))
    write_json(json, {"figures": figures, "rounds": rounds})
