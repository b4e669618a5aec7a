"""What an atlas's folder says of itself to people and to other tools, made of its manifest alone.

    cards(manifest)            # the text of README.md and of croissant.json, which lie beside the tables

`README.md` is a data card; the YAML on top names a configuration for each table, so that
``datasets.load_dataset(folder, "facts")`` reads it. `croissant.json` is Croissant 1.0 metadata
(Akhtar et al., 2024): every file with its sha256, every column with its sentence.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from atlas.store.manifest import Manifest, file_name
from atlas.store.schema import TABLES, describe

CARD, CROISSANT = "README.md", "croissant.json"
PAPER = "https://arxiv.org/abs/2104.08696"
_CITATION = """@inproceedings{dai2022knowledge,
  title = {Knowledge Neurons in Pretrained Transformers},
  author = {Dai, Damai and Dong, Li and Hao, Yaru and Sui, Zhifang and Chang, Baobao and Wei, Furu},
  booktitle = {Proceedings of the 60th Annual Meeting of the Association for Computational Linguistics},
  year = {2022}
}"""
# Croissant's own context, which its readers compare with.
_TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet"),
    *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
    "transform",
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "sc": "https://schema.org/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}


def cards(manifest: Manifest) -> dict[str, str]:
    """The text of both files, by name."""
    metadata = json.dumps(croissant(manifest), indent=1, ensure_ascii=False)
    return {CARD: card_text(manifest), CROISSANT: f"{metadata}\n"}


def _licence(manifest: Manifest) -> str:
    return manifest.dataset.licence or "not stated"


def _in_short(manifest: Manifest) -> str:
    return (
        f"Knowledge neurons of the facts of the data set {manifest.dataset.id} in the language model "
        f"{manifest.model.name}."
    )


def card_text(manifest: Manifest) -> str:
    """The data card, in markdown below YAML."""
    model, dataset, method = manifest.model, manifest.dataset, manifest.method
    configs = "\n".join(f"- config_name: {name}\n  data_files: {file_name(name)}" for name in manifest.tables)
    made_from = {
        "model": f"{model.name}, revision {model.revision}, weights sha256 {model.weights_sha256}",
        "data set": f"{dataset.id}, revision {dataset.revision}, hash {dataset.hash}",
        "licence": _licence(manifest),
        "method": f"{method.name}, rule {method.rule}, tolerance {method.tolerance}, "
        f"refinement {method.refinement.get('mode')}",
        "held out": method.held_out,
        "code": manifest.code_version,
        "made": f"{manifest.created}, on {manifest.device}",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in made_from.items())
    tables = "\n".join(
        f"| `{name}` | {manifest.rows(name):,} | {describe(name)} |" for name in manifest.tables
    )
    notes = f"\n{manifest.notes}\n" if manifest.notes else ""
    return f"""---
pretty_name: {manifest.atlas_id}
license: other
license_name: {json.dumps(_licence(manifest), ensure_ascii=False)}
tags: [interpretability, knowledge-neurons]
configs:
{configs}
---
# {manifest.atlas_id}

{_in_short(manifest)}
{notes}
| | |
|---|---|
{rows}

`manifest.json` has every parameter, and the sha256 of every file.

## Tables

| table | rows | |
|---|---|---|
{tables}

```python
import atlas

atlas.open("FOLDER").query("SELECT * FROM facts LIMIT 5")

import datasets

datasets.load_dataset("FOLDER", "facts")
```

## Before you use it

* A neuron that carries much of an answer's score need not be the place where the fact is stored: the tables
  `effects` and `specificity`, where they are there, say how much other facts lose without it.
* Of a fact that the model does not know (`facts.known`), the neurons say little.
* Facts that are marked `contested` or `guessable` are left out of experiments by default.

## Cite

```bibtex
{_CITATION}
```
"""


def croissant(manifest: Manifest) -> dict[str, Any]:
    """Croissant metadata: files, and a record set for each table."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.atlas_id,
        "description": _in_short(manifest),
        "license": _licence(manifest),
        "url": PAPER,
        "citeAs": _CITATION,
        "datePublished": manifest.created,
        "version": f"{manifest.schema_version}.0.0",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file_name(name),
                "name": file_name(name),
                "contentUrl": file_name(name),
                "encodingFormat": "application/x-parquet",
                "sha256": manifest.files[file_name(name)].sha256,
            }
            for name in manifest.tables
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": name,
                "name": name,
                "description": describe(name),
                "field": [_field(name, column) for column in TABLES[name] if _data_type(column.type)],
            }
            for name in manifest.tables
        ],
    }


def _field(table: str, column: pa.Field) -> dict[str, Any]:
    described = {
        "@type": "cr:Field",
        "@id": f"{table}/{column.name}",
        "name": column.name,
        "description": describe(table, column.name),
        "dataType": _data_type(column.type),
        "source": {"fileObject": {"@id": file_name(table)}, "extract": {"column": column.name}},
    }
    return described | ({"repeated": True} if pa.types.is_list(column.type) else {})


def _data_type(kind: pa.DataType) -> str | None:
    """The type as Croissant names it; None for a list of structs, which it cannot say."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Text" if pa.types.is_string(kind) else None
