"""PARAREL (Elazar et al. 2021, arXiv 2102.01017): what the published knowledge neurons were found on.

    dataset = load_pararel(Path("pararel/data"))    # the `data` folder of a copy of its repository
    dataset = load_pararel()                        # fetched once from its public repository, then cached

The files stay with their publisher: none comes with this project, only their sha256
(`pararel_sha256.txt`, which `sha256sum -c` reads too). Templates and facts are kept as they are written,
odd spaces included, so that results compare with those of others.

Steps: find the files (the folder given, else the cache, else a download), read them, check their sha256.
A malformed line is reported before a wrong hash, because it says more.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

from atlas.datasets import Dataset
from atlas.errors import DatasetError, PromptError
from atlas.models import cache_folder
from atlas.neuron import Fact, Relation, Template

REVISION = "cb5554678457beb5ac163d888f1ce8cf174b3f0b"
BASE_URL = f"https://raw.githubusercontent.com/yanaiela/pararel/{REVISION}/data"
LICENCE = "MIT (its tuples derive from LAMA T-REx, CC BY-NC 4.0)"
FACT_SOURCE = "PARAREL (LAMA T-REx)"

TEMPLATES = "pattern_data/graphs_json"
FACTS = "trex_lms_vocab"
TIMEOUT_SECONDS = 4.0
_DOWNLOADS_AT_ONCE = 8

# P31 and P527 have facts but no templates, so they are no relation here.
LABELS = {
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


def load_pararel(source: Path | None = None, *, hashes: Mapping[str, str] | None = None) -> Dataset:
    """PARAREL's relations with templates, from a folder or, without one, from its public repository.

    `hashes` says which files to read and what they must be; by default those of the published commit.
    Raises `DatasetError` when a file cannot be had, is malformed, or is not the published one.
    """
    hashes = published_hashes() if hashes is None else hashes
    folder = _fetched(hashes) if source is None else _data_folder(source.expanduser())
    contents = {path: _read(folder / path) for path in hashes}
    relation_ids = sorted({Path(path).stem for path in hashes}, key=lambda name: int(name[1:]))

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
                    f"{folder / path}, line {line}: the uuid {entry['uuid']} was used before. "
                    "Give each fact one of its own."
                )
            fact_ids.add(entry["uuid"])
            facts.append(
                Fact(entry["uuid"], relation_id, entry["sub_label"], entry["obj_label"], FACT_SOURCE)
            )
    for path, digest in hashes.items():
        if _sha256(contents[path]) != digest:
            raise DatasetError(
                f"{folder / path} is not the file published at commit {REVISION[:12]}: its sha256 differs. "
                "Copy it from there again."
            )
    return Dataset(
        dataset_id="pararel",
        revision=REVISION,
        licence=LICENCE,
        relations=tuple(Relation(name, LABELS.get(name, name)) for name in relation_ids),
        templates=tuple(templates),
        facts=tuple(facts),
    )


# Reading --------------------------------------------------------------------------------------------


def _data_folder(source: Path) -> Path:
    """The `data` folder: `source` itself, or the one in it when `source` is a copy of the repository."""
    for folder in (source, source / "data"):
        if (folder / TEMPLATES).is_dir() and (folder / FACTS).is_dir():
            return folder
    raise DatasetError(
        f"{source} does not hold the folders {TEMPLATES} and {FACTS}. "
        "Point --source at PARAREL's data folder."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). Point --source at a complete copy of PARAREL's data."
        ) from error


def _entries(path: Path, content: bytes, keys: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, object) for each line of a JSON-lines file; each key must hold some text."""
    for number, line in enumerate(content.rstrip(b"\n").split(b"\n"), start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DatasetError(
                f"{path}, line {number}, is no JSON object ({error}). Copy the file from its publisher again."
            ) from error
        for key in keys:
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise DatasetError(
                    f"{path}, line {number}, has no text under '{key}'. "
                    "Copy the file from its publisher again."
                )
        yield number, entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Fetching -------------------------------------------------------------------------------------------


def _fetched(hashes: Mapping[str, str]) -> Path:
    """The cache folder, after downloading what it lacks (or holds in another form)."""
    folder = cache_folder() / "pararel" / REVISION[:12]
    wanted = [path for path, digest in hashes.items() if not _is_there(folder / path, digest)]
    if not wanted:
        return folder
    # One file alone first: out of reach, it says so after one timeout and not after many.
    _download(folder, wanted[0], hashes[wanted[0]])
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        list(pool.map(lambda path: _download(folder, path, hashes[path]), wanted[1:]))
    return folder


def _is_there(path: Path, digest: str) -> bool:
    return path.is_file() and _sha256(_read(path)) == digest


def _download(folder: Path, path: str, digest: str) -> None:
    try:
        with urllib.request.urlopen(f"{BASE_URL}/{path}", timeout=TIMEOUT_SECONDS) as response:
            content = response.read()
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DatasetError(
            f"PARAREL's {path} cannot be fetched from its public repository ({reason}). "
            "Pass a copy of its data folder with --source DIR."
        ) from error
    if _sha256(content) != digest:
        raise DatasetError(
            f"What was fetched as PARAREL's {path} has another sha256 than the published file. "
            "Try again, or pass a copy of its data folder with --source DIR."
        )
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when complete: two runs may fetch at once, and either may be killed.
        handle, name = tempfile.mkstemp(dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, target)
    except OSError as error:
        raise DatasetError(
            f"PARAREL cannot be kept in {folder} ({error.strerror}). "
            "Set KNOWLEDGE_NEURON_ATLAS_CACHE to a folder that can be written."
        ) from error
