"""How often an edit makes the model say the new answer, and what else it changes.

    python -m build evaluate-edits --model pocket-bert --atlas DIR --sample 200

Known facts of an atlas are sampled; each is edited, on its knowledge neurons, to another object of its
relation (Dai et al., ACL 2022, section 5.1). Nothing is stored. Only held-out prompts are asked:

1. *Efficacy.* The new answer has rank 1 on one held-out template; beside it, the same edit on as many
   random neurons of the same layers, and how often it had rank 1 before.
2. *Paraphrases.* The same on the fact's other held-out templates.
3. *Neighbourhood.* Known facts of the relation with neither answer keep theirs at rank 1.
4. *Unrelated.* So do known facts that differ in relation and object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import BuildError, PromptError
from atlas.models import locate
from atlas.neuron import Neuron, Prompt

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.store import Atlas
    from atlas.surgery.subject import Subject

OTHERS_EACH = 5
FACTS_AT_ONCE = 20


@dataclass(frozen=True)
class KnownFact:
    """A known fact with neurons: its held-out prompts, each asking for its own answer."""

    fact_id: str
    relation_id: str
    answer: str
    neurons: tuple[Neuron, ...]
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class EditTrial:
    """A fact, its new answer, and the prompts of other facts that should not change."""

    fact: KnownFact
    new: str
    neighbours: tuple[Prompt, ...]
    unrelated: tuple[Prompt, ...]


@dataclass(frozen=True)
class Rate:
    """`hits` of `asked` prompts."""

    label: str
    hits: int
    asked: int

    def __str__(self) -> str:
        share = f"{self.hits / self.asked:7.1%}" if self.asked else "      –"
        return f"{self.label:<58} {share}   {self.hits:>5,} of {self.asked:,}"


def evaluate_edits(
    model: str,
    folder: Path,
    *,
    sample: int = 200,
    seed: int = 0,
    remove: float = 1.0,
    add: float = 8.0,
    report: Callable[[int, int], None] | None = None,
) -> str:
    """The table as text. Raises `BuildError` when atlas and model do not belong together."""
    from atlas.store import open_atlas

    if sample < 1 or seed < 0:
        raise BuildError(
            f"A sample of {sample} facts with seed {seed} cannot be drawn. Give 1 or more, and 0."
        )
    for name, strength in (("--remove", remove), ("--add", add)):
        if not 0 <= strength <= 1000:
            raise BuildError(f"{name} {strength} is absurd. Give a strength from 0 to 1000.")
    atlas = open_atlas(folder)
    made_with = atlas.manifest.model
    if locate(model).weights_sha256 != made_with.weights_sha256:
        raise BuildError(
            f"The atlas {atlas.atlas_id} was made with other weights ({made_with.name}). "
            "Give the model it was made with."
        )
    from atlas.surgery.subject import load_subject

    subject = load_subject(model)
    trials = draw_trials(subject, known_facts(atlas), sample=sample, seed=seed)
    if not trials:
        raise BuildError(f"No fact of {atlas.atlas_id} is known and has neurons and held-out prompts.")
    rates = measure(subject, trials, seed=seed, remove=remove, add=add, report=report)
    n_neurons = np.mean([len(trial.fact.neurons) for trial in trials])
    lines = [
        f"Edits of {len(trials):,} known facts of {atlas.atlas_id} to another object of the relation,",
        f"strengths ({remove:g}, {add:g}), {n_neurons:.1f} neurons a fact, seed {seed}; held-out prompts.",
        "",
        *map(str, rates),
    ]
    return "\n".join(lines)


def known_facts(atlas: Atlas) -> list[KnownFact]:
    """Known facts with neurons and held-out prompts, in the order of their ids."""
    neurons: dict[str, list[Neuron]] = defaultdict(list)
    for row in atlas.query("SELECT fact_id, layer, neuron FROM knowledge_neurons ORDER BY ALL").itertuples():
        neurons[row.fact_id].append(Neuron(int(row.layer), int(row.neuron)))
    prompts: dict[str, list[Prompt]] = defaultdict(list)
    about: dict[str, tuple[str, str]] = {}
    rows = atlas.query("""
        SELECT p.fact_id, p.template_id, p.text, f.relation_id, f.object
        FROM prompts AS p JOIN facts AS f USING (fact_id)
        WHERE f.known AND f.n_neurons > 0 AND p.held_out ORDER BY p.fact_id, p.template_id
    """)
    for row in rows.itertuples():
        about[row.fact_id] = (row.relation_id, row.object)
        prompts[row.fact_id].append(Prompt(row.fact_id, row.template_id, row.text, row.object))
    return [
        KnownFact(fact_id, *about[fact_id], tuple(neurons[fact_id]), tuple(prompts[fact_id]))
        for fact_id in sorted(about)
    ]


def draw_trials(subject: Subject, facts: Sequence[KnownFact], *, sample: int, seed: int) -> list[EditTrial]:
    """At most `sample` facts with a new answer that the model has a word for, drawn by the seed."""
    from build.trials import seeded

    order = np.random.default_rng(seed).permutation(len(facts))
    trials: list[EditTrial] = []
    for index in order:
        if len(trials) == sample:
            break
        fact = facts[index]
        generator = seeded(seed, "edit", fact.fact_id)
        objects = sorted(
            {
                other.answer
                for other in facts
                if other.relation_id == fact.relation_id
                and other.answer.casefold() != fact.answer.casefold()
                and is_askable(subject, fact, other.answer)
            }
        )
        if not objects:
            continue
        new = objects[int(generator.integers(len(objects)))]
        answers = {fact.answer.casefold(), new.casefold()}
        others = [other for other in facts if other.answer.casefold() not in answers]

        def some(near: bool, others=others, fact=fact, generator=generator) -> tuple[Prompt, ...]:
            candidates = [other for other in others if (other.relation_id == fact.relation_id) == near]
            count = min(OTHERS_EACH, len(candidates))
            chosen = generator.choice(len(candidates), count, replace=False) if count else []
            return tuple(
                candidates[i].prompts[int(generator.integers(len(candidates[i].prompts)))] for i in chosen
            )

        trials.append(EditTrial(fact, new, some(True), some(False)))
    return trials


def is_askable(subject: Subject, fact: KnownFact, answer: str) -> bool:
    try:
        subject.encode(replace(fact.prompts[0], answer=answer))
    except PromptError:
        return False
    return True


def measure(
    subject: Subject,
    trials: Sequence[EditTrial],
    *,
    seed: int = 0,
    remove: float = 1.0,
    add: float = 8.0,
    report: Callable[[int, int], None] | None = None,
) -> list[Rate]:
    """What the edits did, as rates of prompts."""
    from atlas.surgery.interventions import Edit
    from build.trials import random_match, seeded

    counts: dict[str, list[bool]] = {
        "efficacy": [],
        "efficacy before": [],
        "efficacy random": [],
        "paraphrases": [],
        "paraphrases random": [],
        "neighbourhood": [],
        "unrelated": [],
    }
    for start in range(0, len(trials), FACTS_AT_ONCE):
        asked: list[tuple[str, Prompt, Edit | None]] = []
        kept: list[tuple[str, Prompt, Edit]] = []
        for trial in trials[start : start + FACTS_AT_ONCE]:
            fact = trial.fact
            edit = Edit(fact.neurons, fact.answer, trial.new, remove, add)
            stand_ins = random_match(fact.neurons, subject.n_neurons, seeded(seed, "random", fact.fact_id))
            control = replace(edit, neurons=stand_ins)
            first, *rest = (replace(prompt, answer=trial.new) for prompt in fact.prompts)
            asked += [
                ("efficacy", first, edit),
                ("efficacy before", first, None),
                ("efficacy random", first, control),
            ]
            for prompt in rest:
                asked += [("paraphrases", prompt, edit), ("paraphrases random", prompt, control)]
            kept += [("neighbourhood", prompt, edit) for prompt in trial.neighbours]
            kept += [("unrelated", prompt, edit) for prompt in trial.unrelated]
        said = subject.predict(
            [prompt for _, prompt, _ in asked], top_k=1, interventions=[edit for _, _, edit in asked]
        )
        for (name, _, _), prediction in zip(asked, said, strict=True):
            counts[name].append(prediction.rank == 1)
        # An answer that was not first before cannot be kept.
        before = subject.predict([prompt for _, prompt, _ in kept], top_k=1)
        after = subject.predict(
            [prompt for _, prompt, _ in kept], top_k=1, interventions=[edit for _, _, edit in kept]
        )
        for (name, _, _), old, new in zip(kept, before, after, strict=True):
            if old.rank == 1:
                counts[name].append(new.rank == 1)
        if report is not None:
            report(min(start + FACTS_AT_ONCE, len(trials)), len(trials))
    labels = {
        "efficacy": "efficacy: new answer first, one held-out template",
        "efficacy before": "  before the edit",
        "efficacy random": "  the same edit on random neurons of the same layers",
        "paraphrases": "paraphrases: new answer first, other held-out templates",
        "paraphrases random": "  the same edit on random neurons",
        "neighbourhood": "neighbourhood: facts of the relation keep their answer",
        "unrelated": "unrelated facts keep their answer",
    }
    return [Rate(label, sum(counts[name]), len(counts[name])) for name, label in labels.items()]
