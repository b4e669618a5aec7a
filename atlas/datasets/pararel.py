"""PARAREL (Elazar et al. 2021, arXiv 2102.01017), on which the published knowledge neurons were found.

    dataset = load_pararel(Path("pararel/data"))    # the `data` folder of a copy of its repository
    dataset = load_pararel()                        # fetched once from its public repository, then cached
    dataset = with_own_templates(dataset)           # its facts, and this project's sentences

None of the files comes with this project, only their sha256 (`pararel_sha256.txt`, which `sha256sum -c`
reads too). Templates and facts are kept as published, odd spaces included, so that results compare with
those of others.

A folder may hold other facts and templates in the same form: the revision then says that these are not the
published files, and labels are the relations' ids where PARAREL has none.

Steps: find the files (the folder given, else the cache, else a download), read them, compare their sha256.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from atlas.datasets.dataset import NOT_PUBLISHED, Dataset
from atlas.datasets.fetching import PublishedFiles, as_published, fetch_files, sha256
from atlas.datasets.starter import read_relations
from atlas.errors import DatasetError, PromptError
from atlas.files import looked_up
from atlas.neuron import Fact, Relation, Template, check_text

REVISION = "cb5554678457beb5ac163d888f1ce8cf174b3f0b"
BASE_URL = f"https://raw.githubusercontent.com/yanaiela/pararel/{REVISION}/data"
_LICENCE = "MIT (its tuples derive from LAMA T-REx, CC BY-NC 4.0)"
_FACTS_LICENCE = (
    "non-commercial. Facts: Wikidata's statements as selected by T-REx (CC BY-SA 4.0), LAMA (CC BY-NC 4.0) "
    "and PARAREL (MIT). Templates: this project's (MIT)"
)
_SOURCE = "PARAREL (LAMA T-REx)"

TEMPLATES = "pattern_data/graphs_json"
FACTS = "trex_lms_vocab"

# P31 and P527 have facts but no templates, so they are left out.
RELATION_LABELS = {
    "P17": "country",
    "P19": "place of birth",
    "P20": "place of death",
    "P27": "country of citizenship",
    "P30": "continent",
    "P36": "capital",
    "P37": "official language",
    "P39": "position held",
    "P47": "shares border with",
    "P101": "field of work",
    "P103": "native language",
    "P106": "occupation",
    "P108": "employer",
    "P127": "owned by",
    "P131": "located in the administrative entity",
    "P136": "genre",
    "P138": "named after",
    "P140": "religion",
    "P159": "headquarters location",
    "P176": "manufacturer",
    "P178": "developer",
    "P190": "twinned administrative body",
    "P264": "record label",
    "P276": "location",
    "P279": "subclass of",
    "P361": "part of",
    "P364": "original language of film or TV show",
    "P407": "language of work or name",
    "P413": "position played on team",
    "P449": "original broadcaster",
    "P463": "member of",
    "P495": "country of origin",
    "P530": "diplomatic relation",
    "P740": "location of formation",
    "P937": "work location",
    "P1001": "applies to jurisdiction",
    "P1303": "instrument",
    "P1376": "capital of",
    "P1412": "languages spoken, written or signed",
}


def published_hashes() -> dict[str, str]:
    """sha256 of each of PARAREL's files, by its path below the `data` folder."""
    lines = (Path(__file__).parent / "pararel_sha256.txt").read_text(encoding="ascii").splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


def load_pararel(
    source: Path | None = None,
    *,
    hashes: Mapping[str, str] | None = None,
    option: str = "--source",
    say: Callable[[str], None] | None = None,
    count: Callable[[int, int], None] | None = None,
) -> Dataset:
    """PARAREL's relations with templates, from a folder or, without one, from its public repository.

    `hashes` maps the published files to their sha256; by default those of the pinned commit. `option` is
    the command line's name for `source`; `say` and `count` as in `fetch_files`.
    Raises `DatasetError` when a file cannot be fetched or read, or is malformed.
    """
    hashes = published_hashes() if hashes is None else hashes
    folder = data_folder(source, hashes=hashes, option=option, say=say, count=count)
    relation_ids = _relations_in(folder, hashes)
    paths = [f"{kind}/{relation_id}.jsonl" for relation_id in relation_ids for kind in (TEMPLATES, FACTS)]
    contents = {path: _read(folder / path, option) for path in paths}
    digests = {path: sha256(as_published(content)) for path, content in contents.items()}

    templates: list[Template] = []
    facts: list[Fact] = []
    fact_ids: set[str] = set()
    for relation_id in relation_ids:
        path = f"{TEMPLATES}/{relation_id}.jsonl"
        for line, entry in _entries(folder / path, contents[path], ("pattern",)):
            try:
                template_id = f"{relation_id}.{line - 1}"
                templates.append(Template(template_id, relation_id, entry["pattern"]))
            except PromptError as error:
                raise DatasetError(f"{folder / path}, line {line}: {error}") from error
        path = f"{FACTS}/{relation_id}.jsonl"
        for line, entry in _entries(folder / path, contents[path], ("sub_label", "obj_label", "uuid")):
            if entry["uuid"] in fact_ids:
                raise DatasetError(
                    f"{folder / path}, line {line}: the uuid {entry['uuid']} occurs twice. "
                    "Give each fact a different uuid."
                )
            fact_ids.add(entry["uuid"])
            facts.append(Fact(entry["uuid"], relation_id, entry["sub_label"], entry["obj_label"], _SOURCE))
    return Dataset(
        dataset_id="pararel",
        revision=REVISION if digests == dict(hashes) else f"{NOT_PUBLISHED} of commit {REVISION[:12]}",
        licence=_LICENCE,
        relations=tuple(Relation(name, RELATION_LABELS.get(name, name)) for name in relation_ids),
        templates=tuple(templates),
        facts=tuple(facts),
    )


# This project's templates ----------------------------------------------------------------------------


def own_templates() -> dict[str, tuple[Template, ...]]:
    """Relation id → this project's templates."""
    _, templates = read_relations(Path(__file__).parent / "pararel_templates.json")
    return {name: tuple(each) for name, each in groupby(templates, lambda t: t.relation_id)}


def with_own_templates(dataset: Dataset) -> Dataset:
    """PARAREL's facts with this project's templates: none of its sentences is left.

    Raises `DatasetError` for a relation that has no such templates.
    """
    own = own_templates()
    without = [each.relation_id for each in dataset.relations if each.relation_id not in own]
    if without:
        raise DatasetError(
            f"This project has no templates for {', '.join(without)}. Take the data set's own templates."
        )
    return replace(
        dataset,
        revision=f"facts: {dataset.revision}; templates: this project's",
        licence=_FACTS_LICENCE,
        templates=tuple(each for relation in dataset.relations for each in own[relation.relation_id]),
    )


# Reading --------------------------------------------------------------------------------------------


def data_folder(
    source: Path | None,
    *,
    hashes: Mapping[str, str] | None = None,
    option: str = "--source",
    say: Callable[[str], None] | None = None,
    count: Callable[[int, int], None] | None = None,
) -> Path:
    """PARAREL's `data` folder: the one given, else the cache, after fetching what it lacks."""
    if source is not None:
        return _data_folder(looked_up(source, DatasetError), option)
    hashes = published_hashes() if hashes is None else hashes
    published = PublishedFiles("pararel", "PARAREL", "a copy of its data folder", BASE_URL, REVISION, hashes)
    return fetch_files(published, option=option, say=say, count=count)


def _data_folder(source: Path, option: str) -> Path:
    """The `data` folder: `source` itself, or the one in it when `source` is a copy of the repository."""
    for folder in (source, source / "data"):
        if (folder / TEMPLATES).is_dir() and (folder / FACTS).is_dir():
            return folder
    raise DatasetError(
        f"{source} does not have the folders {TEMPLATES} and {FACTS}. "
        f"Point {option} at PARAREL's data folder."
    )


def _relations_in(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """The relations with templates, by number; a published one that lacks just one of its files, too."""
    found = {kind: {path.stem for path in (folder / kind).glob("*.jsonl")} for kind in (TEMPLATES, FACTS)}
    names = found[TEMPLATES] | (found[FACTS] & {Path(path).stem for path in hashes})
    if not names:
        raise DatasetError(f"{folder / TEMPLATES} has no *.jsonl. Give each relation one, such as P36.jsonl.")
    return sorted(names, key=by_number)


def by_number(relation_id: str) -> tuple[int, str]:
    """A key that sorts Wikidata's ids by their number, others after them by name."""
    found = re.fullmatch(r"P(\d{1,18})", relation_id)
    return (int(found[1]), "") if found else (1 << 62, relation_id)


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). Point {option} at a complete copy of PARAREL's data."
        ) from error


def _entries(path: Path, content: bytes, keys: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, object) for each line of a JSON-lines file; each key must hold some text."""
    for number, line in enumerate(content.rstrip(b"\n").split(b"\n"), start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(
                f"{path}, line {number}, is not a JSON object ({error}). Copy the file again."
            ) from error
        for key in keys:
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise DatasetError(
                    f"{path}, line {number}, has no text under '{key}'. "
                    "Copy the file from its publisher again."
                )
            try:
                check_text(f"the text under '{key}',", value)
            except PromptError as error:
                raise DatasetError(f"{path}, line {number}: {error}") from None
        yield number, entry
