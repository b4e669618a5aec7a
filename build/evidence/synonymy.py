"""Synonymy: does an edited fact stay edited where a prompt names its subject by another word?

Niu et al. (ICLR 2024): whoever has changed what a model knows has changed it for synonyms, too. Whether it
holds for other wordings of the relation is what `update` asks, with its paraphrases.

1. *Facts* with a valid edit (as in `update`) whose subject has synonyms (`atlas.datasets.synonyms`): all of
   them, not a sample. A synonym that gives the old or the new answer away is left out.
2. *Edit* to the answer that `update` would choose; groups own, all and random, both pairs of strengths.
3. *Ask* the fact's held-out prompts with its subject, and with each synonym in its place.

An edit that gives the new answer to the whole relation gives it to synonyms, too: so other facts of the
relation, which `update` asks, stand beside them.

Counted are synonyms under which the model answered rightly before (`atlas.queries.critics`): what it did not
know by that name, an edit cannot change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atlas.datasets.starter import gives_away
from atlas.datasets.synonyms import load_synonyms
from atlas.neuron import Prompt
from atlas.queries import critics
from build.evidence.setting import AtlasFact, Setting, chunks
from build.evidence.update import STRENGTHS, PlannedEdit, answer_columns, plan_edit, valid_facts

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

GROUPS = ("own", "all", "random")
_FACTS_A_SHARD = 8


def units(setting: Setting) -> list[tuple[str, ...]]:
    named = load_synonyms()
    facts = [
        fact
        for relation_id in setting.by_relation
        for fact in valid_facts(setting, relation_id)
        if fact.fact.subject in named
    ]
    if setting.sample is not None:
        drawn = setting.generator("synonymy").permutation(len(facts))[: setting.sample]
        facts = [facts[index] for index in sorted(drawn)]
    return chunks([fact.fact_id for fact in facts], _FACTS_A_SHARD)


def synonyms_of(fact: AtlasFact, new: str) -> tuple[str, ...]:
    """The subject's synonyms that contain neither the old answer nor the new one, nor are contained."""
    return tuple(
        synonym
        for synonym in load_synonyms()[fact.fact.subject]
        if not any(gives_away(synonym, answer) for answer in (fact.fact.object, new))
    )


def named_prompts(setting: Setting, edit: PlannedEdit) -> list[tuple[str, Prompt]]:
    """(name, prompt): the held-out prompts with the subject, then with each synonym that can be asked."""
    subject = edit.fact.fact.subject
    found: list[tuple[str, Prompt]] = []
    for name in (subject, *synonyms_of(edit.fact, edit.new)):
        for each in edit.fact.held_out:
            prompt = replace(each.prompt, text=each.prompt.text.replace(subject, name))
            if all(setting.subject.can_be_asked(asked) for asked in _both(prompt, edit)):
                found.append((name, prompt))
    return found if any(name != subject for name, _ in found) else []


def _both(prompt: Prompt, edit: PlannedEdit) -> tuple[Prompt, Prompt]:
    return prompt, replace(prompt, answer=edit.new)


def measure(setting: Setting, unit: Sequence[str]) -> list[dict[str, Any]]:
    from atlas.interventions import Edit

    edits = [edit for fact_id in unit if (edit := plan_edit(setting, setting.by_id[fact_id]))]
    asked = [(edit, name, prompt) for edit in edits for name, prompt in named_prompts(setting, edit)]
    predictions = iter(setting.predict([each for edit, _, prompt in asked for each in _both(prompt, edit)]))
    before = [(next(predictions), next(predictions)) for _ in asked]
    measured = [
        (place, group, strengths)
        for place in range(len(asked))
        for group in GROUPS
        for strengths in STRENGTHS
    ]
    prompts, changes = [], []
    for place, group, strengths in measured:
        edit, _, prompt = asked[place]
        prompts += _both(prompt, edit)
        changes += [Edit(edit.groups[group], edit.fact.fact.object, edit.new, *strengths)] * 2
    predictions = iter(setting.predict(prompts, changes))
    rows = []
    for place, group, strengths in measured:
        edit, name, prompt = asked[place]
        rows.append(
            {
                "fact_id": edit.fact.fact_id,
                "new_object": edit.new,
                "remove": strengths[0],
                "add": strengths[1],
                "group": group,
                "asked": name,
                "synonym": name != edit.fact.fact.subject,
                "template_id": prompt.template_id,
                "n_neurons": len(edit.groups[group]),
                **answer_columns(before[place], (next(predictions), next(predictions))),
            }
        )
    return rows


def summary(atlas: Atlas) -> list[str]:
    counts = atlas.query_row("""
        SELECT count(DISTINCT fact_id) AS facts,
               count(DISTINCT (fact_id, asked)) FILTER (synonym) AS synonyms,
               count(DISTINCT (fact_id, asked)) FILTER (synonym AND rank_old_before = 1) AS known
        FROM synonymy
    """)
    lines = [
        f"{counts['synonyms']:,} synonyms of {counts['facts']:,} facts asked; the model answers "
        f"{counts['known']:,} of them rightly before the edit on some prompt. The new answer is first:"
    ]
    rows = critics.synonymy(atlas)
    # Edits of random neurons succeed too seldom to ask what follows from it.
    for row in rows[(rows["edits"] == "all") | (rows["group"] != "random")].itertuples():
        after = " after success" if row.edits == "successful" else ""
        what = f"{row.group} ({row.remove:g}, {row.add:g}), {row.asked}{after}"
        share = f"{row.share:6.1%} [{row.low:.1%}, {row.high:.1%}]"
        lines.append(f"  {what:<38}{share:<26}n = {row.n_prompts:,} prompts of {row.n_edits:,} facts")
    return lines
