"""The facts of Dai et al.'s code (ACL 2022): sentences with a mask and their answers.

    dataset = load_dai(Path("data_all.json"))       # or a folder that holds it
    dataset.templates_of("P36")[0].pattern          # "The capital city of [X] is called [Y]."

Their `data/PARAREL/preprocess.py` writes a list of facts, each the list of its prompts ["The capital of
France is [MASK].", "Paris", "P36(capital)"]. Facts of a relation have the same templates in the same order,
so these and the subjects are found again:

1. *Around.* What all facts of a relation have in common before and after the subject, template by template,
   cut at words: with "[X]" between, that is the template.
2. *Subject.* What a fact's sentence has between the two.
3. *Check.* Every template, filled in, gives the sentence of the file.

A fact is called by its relation and its place there, `P36.0`, the order of `kn_bag-P36.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from atlas.datasets.dataset import NOT_PUBLISHED, Dataset
from atlas.datasets.fetching import git_blob_id
from atlas.datasets.pararel import RELATION_LABELS, by_number
from atlas.errors import DatasetError, PromptError
from atlas.neuron import OBJECT_SLOT, SUBJECT_SLOT, Fact, Relation, Template
from atlas.validation import one_line, problem_of

REPOSITORY = "Hunter-DDM/knowledge-neurons"
REVISION = "922dfd9e05ef55f46af078ba4bd334989a45a618"
FILE = "data_all.json"
_SOURCE = "Dai et al."
MASK = "[MASK]"
# The git blob ids of the published files: all facts, and those of the relations of each kind.
_PUBLISHED = {
    "6d94a0d1dab7aab70ba0e801d6838aad4846f404",
    "2b19924f80cb841c9827b56e6dc64b3614087b4c",
    "ebe8f97f6d170082ae1c88ed135e41e66cf38825",
    "9f2b4504e07ba3b069a1a5b21901e392cac416e0",
}

_Text = Annotated[str, StringConstraints(min_length=1)]
_Prompt = tuple[_Text, _Text, _Text]
_FILE = TypeAdapter(list[Annotated[list[_Prompt], Field(min_length=1)]])


def load_dai(source: Path | None = None) -> Dataset:
    """The facts of a `data_all.json`, given as a file or by its folder.

    Raises `DatasetError` naming the file, and the fact by its place, that is not of this form.
    """
    if source is None:
        raise DatasetError(f"The data set dai is read from a file. Pass {FILE} with --source FILE.")
    path = source.expanduser()
    path = path / FILE if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}). Point --source at {FILE}.") from error
    try:
        bags = _FILE.validate_json(content, strict=True)
    except ValidationError as error:
        raise DatasetError(
            f"{problem_of(error, str(path))}. "
            "Give a list of facts, each a list of [sentence, answer, relation]."
        ) from error
    of_relation: dict[str, list[tuple[int, list[_Prompt]]]] = {}
    for place, bag in enumerate(bags):
        of_relation.setdefault(_relation_of(path, place, bag), []).append((place, bag))
    relation_ids = sorted(of_relation, key=by_number)
    found = [_read_relation(path, relation_id, of_relation[relation_id]) for relation_id in relation_ids]
    published = git_blob_id(content) in _PUBLISHED
    return Dataset(
        dataset_id="dai",
        revision=REVISION if published else f"{NOT_PUBLISHED} of {REPOSITORY}",
        licence="MIT (its tuples derive from LAMA T-REx, CC BY-NC 4.0)" if published else "not stated",
        relations=tuple(
            Relation(relation_id, _label_of(relation_id, of_relation[relation_id][0][1]))
            for relation_id in relation_ids
        ),
        templates=tuple(template for templates, _ in found for template in templates),
        facts=tuple(fact for _, facts in found for fact in facts),
    )


def _relation_of(path: Path, place: int, bag: list[_Prompt]) -> str:
    """The relation's id; raises `DatasetError` where the bag is not one fact."""
    if len({(answer, relation) for _, answer, relation in bag}) > 1:
        raise _malformed(path, place, "its prompts have different answers or relations")
    for sentence, *_ in bag:
        if sentence.count(MASK) != 1:
            raise _malformed(path, place, f"'{one_line(sentence, 60)}' must have one {MASK}")
    return bag[0][2].partition("(")[0].strip() or bag[0][2]


def _label_of(relation_id: str, bag: list[_Prompt]) -> str:
    label = bag[0][2].partition("(")[2].rstrip(")").strip()
    return RELATION_LABELS.get(relation_id, relation_id) if label in ("", relation_id) else label


def _malformed(path: Path, place: int, problem: str) -> DatasetError:
    return DatasetError(
        f"{path}, fact {place} (counted from 0): {problem}. "
        "Give at least two facts of a relation, with the same templates in the same order."
    )


def _read_relation(
    path: Path, relation_id: str, bags: Sequence[tuple[int, list[_Prompt]]]
) -> tuple[list[Template], list[Fact]]:
    """A relation's templates and facts, by the steps above."""
    n_templates = len(bags[0][1])
    for place, bag in bags:
        if len(bag) != n_templates:
            raise _malformed(
                path, place, f"it has {len(bag)} prompts where the first of {relation_id} has {n_templates}"
            )
    around = [_around([bag[number][0] for _, bag in bags]) for number in range(n_templates)]
    unclear = f"its subject cannot be told from the templates of {relation_id}"
    templates, facts = [], []
    for number, (before, after) in enumerate(around):
        pattern = f"{before}{SUBJECT_SLOT}{after}".replace(MASK, OBJECT_SLOT)
        try:
            templates.append(Template(f"{relation_id}.{number}", relation_id, pattern))
        except PromptError as error:
            raise _malformed(path, bags[0][0], unclear) from error
    for number, (place, bag) in enumerate(bags):
        sentence, answer, _ = bag[0]
        before, after = around[0]
        subject = sentence[len(before) : len(sentence) - len(after)]
        fact = Fact(f"{relation_id}.{number}", relation_id, subject, answer, _SOURCE)
        again = [template.prompt(fact).text.replace(OBJECT_SLOT, MASK) for template in templates]
        if not subject.strip() or again != [sentence for sentence, *_ in bag]:
            raise _malformed(path, place, unclear)
        facts.append(fact)
    return templates, facts


def _around(sentences: Sequence[str]) -> tuple[str, str]:
    """What all sentences begin and end with, cut at words."""
    before = _common_beginning(sentences)
    while before and before[-1].isalnum():
        before = before[:-1]
    after = _common_beginning([sentence[len(before) :][::-1] for sentence in sentences])[::-1]
    while after and after[0].isalnum():
        after = after[1:]
    return before, after


def _common_beginning(texts: Sequence[str]) -> str:
    pairs = zip(min(texts), max(texts), strict=False)
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
