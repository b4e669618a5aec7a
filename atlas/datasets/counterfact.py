"""CounterFact (Meng et al. 2022, arXiv 2202.05262): facts, each with a new answer to edit it to.

    dataset = load_counterfact(Path("counterfact.json"))      # a `Dataset` like the others
    dataset = load_counterfact()                              # fetched once from its public home, then cached
    case = read_counterfact(Path("counterfact.json")).cases[0]
    case.fact, case.new_object, case.paraphrases, case.neighbours

The file does not come with this project, and no sha256 of it is published. `Dataset.revision` is the sha256
of the file that was read: atlases with equal revisions are of the same file.

1. *Templates.* A record's rewrite prompt has a place for the subject and ends where the answer goes: as "… of
   [X] is [Y]" it is a template. A relation's templates are those of all its records, each once, and every
   fact of the relation is asked with all of them, as in PARAREL, their origin.
2. *Facts.* One for each subject, relation and true answer, with the id of its first record.
3. *Cases.* Each record's fields that a `Dataset` lacks: the new answer; paraphrases of this subject, mostly
   after a sentence about something else; prompts of other subjects with the same true answer (neighbours) and
   of subjects with the new one (attributes); beginnings of texts (generation).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError

from atlas.datasets.dataset import Dataset
from atlas.datasets.fetching import as_published, fetch_file, sha256
from atlas.datasets.pararel import RELATION_LABELS, by_number
from atlas.errors import DatasetError, PromptError
from atlas.files import looked_up
from atlas.neuron import OBJECT_SLOT, SUBJECT_SLOT, Fact, Prompt, Relation, Template, check_text
from atlas.validation import problem_of

URL = "https://rome.baulab.info/data/dsets/counterfact.json"
FILE = "counterfact.json"
_LICENCE = "MIT (ROME; made from PARAREL, whose tuples derive from LAMA T-REx, CC BY-NC 4.0)"
_SOURCE = "CounterFact"
HOLE = "{}"

_AGAIN = "Copy the file from its publisher again."


@dataclass(frozen=True)
class Case:
    """One record: a fact, the answer to edit it to, and the prompts that evaluate the edit.

    `prompt` and `paraphrases` ask for the fact; `neighbours` for the same answer of other subjects, which an
    edit should not change; `attributes` for the new answer of subjects that have it; `generation` are
    beginnings of texts.
    """

    case_id: str
    fact: Fact
    new_object: str
    prompt: Prompt
    paraphrases: tuple[Prompt, ...]
    neighbours: tuple[Prompt, ...]
    attributes: tuple[Prompt, ...]
    generation: tuple[str, ...]


@dataclass(frozen=True)
class CounterFact:
    """The file as a data set, and record by record."""

    dataset: Dataset
    cases: tuple[Case, ...]


def load_counterfact(
    source: Path | None = None, *, option: str = "--source", say: Callable[[str], None] | None = None
) -> Dataset:
    """CounterFact's relations, rewrite prompts and facts. See `read_counterfact`."""
    return read_counterfact(source, option=option, say=say).dataset


def read_counterfact(
    source: Path | None = None, *, option: str = "--source", say: Callable[[str], None] | None = None
) -> CounterFact:
    """CounterFact from a file (or a folder that holds it) or, without one, from its public home.

    `option` is the command line's name for `source`; `say` is called before a download.
    Raises `DatasetError` when the file cannot be fetched or read, or is not in CounterFact's form.
    """
    if source is None:
        path = fetch_file(
            URL,
            key="counterfact",
            name="CounterFact",
            copy=f"a copy of {FILE}",
            check=lambda content: _parse(URL, content),
            option=option,
            say=say,
        )
    else:
        path = looked_up(source, DatasetError)
        path = path / FILE if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). Point {option} at a copy of {FILE}."
        ) from error
    return _parse(str(path), content)


# Reading --------------------------------------------------------------------------------------------

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
# Copies of the file may lack a list; empty texts are left out.
_Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda texts: texts or ()),
    AfterValidator(lambda texts: tuple(text.strip() for text in texts if text.strip())),
]


class _Answer(BaseModel):
    text: Annotated[_Text, Field(alias="str")]


class _Rewrite(BaseModel):
    relation_id: _Text
    subject: _Text
    prompt: _Text
    target_true: _Answer
    target_new: _Answer


class _Record(BaseModel):
    case_id: int | str
    requested_rewrite: _Rewrite
    paraphrase_prompts: _Texts = ()
    neighborhood_prompts: _Texts = ()
    attribute_prompts: _Texts = ()
    generation_prompts: _Texts = ()


def _parse(path: str, content: bytes) -> CounterFact:
    templates: dict[tuple[str, str], Template] = {}
    facts: dict[tuple[str, str, str], Fact] = {}
    cases: dict[str, Case] = {}
    for number, plain in enumerate(_records(path, content), start=1):
        where = f"{path}, record {number}"
        try:
            record = _Record.model_validate(plain)
        except ValidationError as error:
            raise DatasetError(f"{problem_of(error, where)}. {_AGAIN}") from error
        rewrite, case_id = record.requested_rewrite, str(record.case_id)
        if case_id in cases:
            raise DatasetError(f"{where}: the case_id {case_id} occurs twice. {_AGAIN}")
        if rewrite.prompt.count(HOLE) != 1:
            raise DatasetError(
                f"{where}: the prompt '{rewrite.prompt}' must have exactly one {HOLE}. {_AGAIN}"
            )
        relation_id, subject, answer = rewrite.relation_id, rewrite.subject, rewrite.target_true.text
        try:
            template = _template(templates, relation_id, rewrite.prompt)
            fact = facts.setdefault(
                (relation_id, subject, answer),
                Fact(f"case-{case_id}", relation_id, subject, answer, _SOURCE),
            )
            cases[case_id] = _case(case_id, record, fact, template)
        except PromptError as error:
            raise DatasetError(f"{where}: {error}") from error
    relation_ids = sorted({fact.relation_id for fact in facts.values()}, key=by_number)
    order = {relation_id: place for place, relation_id in enumerate(relation_ids)}
    dataset = Dataset(
        dataset_id="counterfact",
        revision=f"sha256 {sha256(as_published(content))}",
        licence=_LICENCE,
        relations=tuple(Relation(name, RELATION_LABELS.get(name, name)) for name in relation_ids),
        templates=tuple(sorted(templates.values(), key=lambda each: order[each.relation_id])),
        facts=tuple(sorted(facts.values(), key=lambda each: order[each.relation_id])),
    )
    return CounterFact(dataset, tuple(cases.values()))


def _records(path: str, content: bytes) -> list[Any]:
    try:
        records = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON ({error}). {_AGAIN}") from error
    if not isinstance(records, list) or not records:
        raise DatasetError(f"{path} is not a list of records, as CounterFact is. {_AGAIN}")
    return records


def _template(templates: dict[tuple[str, str], Template], relation_id: str, prompt: str) -> Template:
    """The relation's template of this wording; a new one gets the next number."""
    key = relation_id, prompt
    if key not in templates:
        number = sum(each.relation_id == relation_id for each in templates.values())
        pattern = f"{prompt.replace(HOLE, SUBJECT_SLOT)} {OBJECT_SLOT}"
        templates[key] = Template(f"{relation_id}.{number}", relation_id, pattern)
    return templates[key]


def _case(case_id: str, record: _Record, fact: Fact, template: Template) -> Case:
    def prompts(key: str, fact_id: str, answer: str) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(fact_id, f"{key}.{number}", f"{text} {OBJECT_SLOT}", answer)
            for number, text in enumerate(getattr(record, key))
        )

    for text in record.generation_prompts:
        check_text("The beginning", text)
    new = record.requested_rewrite.target_new.text
    return Case(
        case_id=case_id,
        fact=fact,
        new_object=new,
        prompt=template.prompt(fact),
        paraphrases=prompts("paraphrase_prompts", fact.fact_id, fact.object),
        neighbours=prompts("neighborhood_prompts", "", fact.object),
        attributes=prompts("attribute_prompts", "", new),
        generation=record.generation_prompts,
    )
