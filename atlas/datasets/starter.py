"""The starter facts: this project's own data set, small enough for a laptop and free to share.

    dataset = load_starter()
    dataset.templates_of("P36")[0].pattern     # "The capital city of [X] is called [Y]."

The folder `starter_facts` holds `relations.json` (label, where the facts come from, templates) and one
CSV a relation (subject, object, source, mark). Capitals, continents, languages, currencies and cities come
from GeoNames through `build/sources/geonames.py`; the other facts, and every template, were written for this
project. Relations carry Wikidata's property ids, as PARAREL's do; templates come in PARAREL's form.

Steps: read the relations, read each relation's facts, refuse rows that make a prompt meaningless (an empty
cell, a subject that occurs twice, an answer that its subject gives away).

A mark says that a fact is `contested` (several answers are defensible), `guessable` (the subject suggests its
answer), or both, separated by a space. Files without the column `mark` are read, too.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

from atlas.datasets.dataset import NOT_PUBLISHED, Dataset
from atlas.errors import DatasetError, PromptError
from atlas.neuron import MARKS, Fact, Relation, Template
from atlas.validation import one_line

STARTER_FACTS = Path(__file__).parent / "starter_facts"
_REVISION = "2"
_LICENCE = "CC BY 4.0 (GeoNames part); MIT (the rest)"

_COLUMNS = ["subject", "object", "source", "mark"]
_UNMARKED_COLUMNS = _COLUMNS[:3]
# Letters that Unicode does not decompose into a base letter and an accent.
_LETTERS = str.maketrans(
    {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "æ": "ae", "œ": "oe", "½": " 1 2"}
)


def load_starter(folder: Path = STARTER_FACTS) -> Dataset:
    """The starter data set, from the folder that comes with the project, or one of the same form.

    The revision of other facts says that they are not the project's. Raises `DatasetError` when a file is
    missing or malformed.
    """
    relations, templates = read_relations(folder / "relations.json")
    facts: list[Fact] = []
    for relation in relations:
        facts += _read_facts(folder / "facts" / f"{relation.relation_id}.csv", relation.relation_id)
    dataset = Dataset(
        dataset_id="starter",
        revision=_REVISION,
        licence=_LICENCE,
        relations=tuple(relations),
        templates=tuple(templates),
        facts=tuple(facts),
    )
    if folder == STARTER_FACTS or dataset.dataset_hash == load_starter().dataset_hash:
        return dataset
    return replace(dataset, revision=f"{NOT_PUBLISHED} of the project", licence="not stated")


def gives_away(subject: str, answer: str) -> bool:
    """Whether the subject contains the answer or the answer the subject (Kuwait, Kuwait City)."""
    subject, answer = _ascii_lower(subject), _ascii_lower(answer)
    return answer in subject or subject in answer


def slug(text: str) -> str:
    """ASCII letters and digits of the text, joined by hyphens: "São Tomé" gives "sao-tome"."""
    return re.sub(r"[^a-z0-9]+", "-", _ascii_lower(text)).strip("-")


def _ascii_lower(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return decomposed.encode("ascii", "ignore").decode().lower()


def _read_text(path: Path) -> str:
    try:
        # Spreadsheets write a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). "
            "Give a folder like the project's atlas/datasets/starter_facts."
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error


def read_relations(path: Path) -> tuple[list[Relation], list[Template]]:
    """The relations and templates of a `relations.json`. Raises `DatasetError` where it is malformed."""
    try:
        entries = json.loads(_read_text(path))
        relations = [Relation(str(e["relation_id"]), str(e["label"])) for e in entries]
        patterns = {str(e["relation_id"]): [str(line) for line in e["templates"]] for e in entries}
    except (ValueError, KeyError, TypeError, RecursionError, PromptError) as error:
        raise DatasetError(
            f"{path} is not a list of relations ({type(error).__name__}: {error}). "
            "Give each entry relation_id, label and templates."
        ) from error
    for relation in relations:
        if not re.fullmatch(r"[\w-]{1,100}", relation.relation_id):
            raise DatasetError(
                f"{path}: the relation_id '{one_line(relation.relation_id, 60)}' cannot name a file. "
                "Give an id such as P36."
            )
    if not relations or len(patterns) != len(relations):
        raise DatasetError(f"{path} has no relation, or a relation twice. List each relation once.")
    templates = []
    for relation_id, lines in patterns.items():
        if not lines or len(set(lines)) != len(lines):
            raise DatasetError(
                f"{relation_id} in {path} has no template, or a template twice. List each template once."
            )
        for index, pattern in enumerate(lines):
            try:
                templates.append(Template(f"{relation_id}.{index}", relation_id, pattern))
            except PromptError as error:
                raise DatasetError(f"{path}: {error}") from error
    return relations, templates


def _read_facts(path: Path, relation_id: str) -> list[Fact]:
    rows = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    facts: list[Fact] = []
    line_of: dict[str, int] = {}
    try:
        columns = next(rows, None)
        if columns is None or columns not in (_COLUMNS, _UNMARKED_COLUMNS):
            raise DatasetError(f"{path} must start with the columns subject,object,source,mark.")
        for row in rows:
            line = rows.line_num
            subject, answer, source, *mark = (cell.strip() for cell in row) if len(row) > 2 else ("", "", "")
            if len(row) != len(columns) or not all((subject, answer, source)):
                raise DatasetError(
                    f"{path}, line {line}, has an empty or missing cell. Fill in subject, object and source; "
                    "where the header has the column mark, end the line with a comma and the mark, if any."
                )
            marks = _read_marks(mark[0], path, line) if mark else {}
            if gives_away(subject, answer):
                raise DatasetError(
                    f"{path}, line {line}: '{subject}' and '{answer}' contain one another, so the prompt "
                    "would give its answer away. Remove the fact."
                )
            name = slug(subject)
            if not name or name in line_of:
                twin = f" (see line {line_of[name]})" if name else ""
                raise DatasetError(
                    f"{path}, line {line}: the subject '{subject}' is not unique{twin}. "
                    "Keep one fact for each subject."
                )
            line_of[name] = line
            facts.append(Fact(f"{relation_id}:{name}", relation_id, subject, answer, source, **marks))
    except csv.Error as error:
        raise DatasetError(
            f"{path}, line {rows.line_num}, is not CSV ({error}). Correct the line."
        ) from error
    if not facts:
        raise DatasetError(f"{path} has no facts. Add some, or remove {relation_id} from relations.json.")
    return facts


def _read_marks(cell: str, path: Path, line: int) -> dict[str, bool]:
    given = cell.split()
    unknown = [mark for mark in given if mark not in MARKS]
    if unknown:
        raise DatasetError(
            f"{path}, line {line}: '{one_line(unknown[0], 60)}' is not a mark. "
            f"Write {' or '.join(MARKS)}, both separated by a space, or nothing."
        )
    return {mark: mark in given for mark in MARKS}
