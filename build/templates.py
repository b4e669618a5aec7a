"""How well a model answers each template of a data set: which sentences are hard to read, or lead elsewhere.

    print(describe_templates(measure_templates(QuestionOptions(model="smollm2-135m", dataset="starter"))))

1. *Ask.* Every fact with every usable template of its relation: all, or those that end with the object for a
   causal model; without the prompts that the model cannot be given.
2. *Compare.* The median probability of a template's answers with the median over its relation's templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from atlas.errors import BuildError
from atlas.neuron import Template
from build.plan import BuildOptions, QuestionOptions, make_plan
from build.progress import ProgressBar

LOW = 1 / 5
"""A template is marked when its median is under this share of its relation's."""


@dataclass(frozen=True)
class MeasuredTemplate:
    """Shares and probabilities are between 0 and 1; `of_relation` is the median of its templates' medians."""

    template: Template
    n_prompts: int
    first: float
    median: float
    of_relation: float

    @property
    def is_low(self) -> bool:
        return self.median < LOW * self.of_relation


def measure_templates(options: QuestionOptions) -> list[MeasuredTemplate]:
    """Each usable template, in the data set's order. Raises `BuildError` when nothing can be asked."""
    plan = make_plan(BuildOptions(**vars(options)), allow_download=True)

    from atlas.surgery.subject import load_subject

    subject = load_subject(options.model)
    measured: list[MeasuredTemplate] = []
    with ProgressBar("measure", total=plan.n_prompts) as progress:
        for relation in plan.dataset.relations:
            facts, rows = plan.dataset.facts_of(relation.relation_id), []
            for template, _ in plan.templates[relation.relation_id]:
                # Step 1: ask.
                prompts = [template.prompt(fact) for fact in facts]
                asked = [prompt for prompt in prompts if subject.can_be_asked(prompt)]
                predictions = subject.predict(asked, top_k=1)
                progress.advance(len(prompts))
                if predictions:
                    first = sum(each.rank == 1 for each in predictions) / len(predictions)
                    rows += [(template, len(asked), first, median(p.probability for p in predictions))]
            # Step 2: compare.
            of_relation = median(row[3] for row in rows) if rows else 0.0
            measured += [MeasuredTemplate(*row, of_relation) for row in rows]
    if not measured:
        raise BuildError(f"{options.model} takes none of the prompts. Choose other relations.")
    return measured


def describe_templates(measured: Iterable[MeasuredTemplate]) -> str:
    """A line a template, and how many are marked."""
    rows = [
        (
            each.template.relation_id,
            each.template.pattern,
            f"{each.first:.1%}",
            f"{each.median:.4f}",
            f"{each.of_relation:.4f}",
            "under a fifth" if each.is_low else "",
        )
        for each in measured
    ]
    n_low = sum(bool(row[-1]) for row in rows)
    rows = [("relation", "template", "rank 1", "median", "relation's", ""), *rows]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{wide[0]}}  {pattern:<{wide[1]}}  {first:>{wide[2]}}  {own:>{wide[3]}}  {usual:>10}  {mark}"
        for name, pattern, first, own, usual, mark in rows
    ]
    lines += ["", f"{n_low:,} of {len(rows) - 1:,} templates are under a fifth of their relation's median"]
    return "\n".join(line.rstrip() for line in lines)
