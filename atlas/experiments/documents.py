"""Experiments as JSON, for files, and as text for a URL.

    from_json(to_json(experiment)) == experiment == from_link(to_link(experiment))
    document(to_json(experiment, outcome.results)).results   # python -m build experiment FILE does it again

A link is the JSON without results, through zlib and base64url. Both come from strangers: everything is
checked, and nothing is inflated beyond its bound. What is wrong is a `DocumentError` of one line.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

from atlas.errors import AtlasError, DocumentError
from atlas.experiments.experiment import (
    MAX_DRAWS,
    MAX_PROMPTS,
    MAX_SEED,
    MAX_TEXT,
    Experiment,
    Measured,
    Results,
    Said,
)
from atlas.experiments.reading import REMEDY, Record, one_line, parse
from atlas.interventions import MAX_NEURONS, NAME_LENGTH, several_from_plain, to_plain
from atlas.neuron import Asked, Neuron, Prompt

FORMAT = "knowledge-neuron-experiment"
# Version 2 added what random neurons do to an edit's new answer; results of version 1 lack it.
VERSION = 2
READABLE = (1, VERSION)

MAX_FILE_BYTES = 20_000_000
MAX_LINK_BYTES = 200_000  # inflated
MAX_NAME = 300
MAX_TOP = 1000
MAX_RANK = 10_000_000

_SHA256 = re.compile(r"|[0-9a-f]{64}")
_LINK = re.compile(r"[A-Za-z0-9_-]+")


# As JSON ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """An experiment as it was kept: with its results, where they were kept too."""

    experiment: Experiment
    results: Results | None = None


def to_json(experiment: Experiment, results: Results | None = None) -> str:
    """The experiment as a JSON document of this version, for people and for `from_json`."""
    plain = _plain(experiment)
    if results is not None:
        plain["results"] = _plain_results(results)
    return json.dumps(plain, ensure_ascii=False, indent=1)


def from_json(text: str, *, most: int = MAX_FILE_BYTES) -> Experiment:
    """The experiment in a text that `to_json` wrote; `DocumentError` for anything else."""
    return document(text, most=most).experiment


def document(text: str, *, most: int = MAX_FILE_BYTES) -> Document:
    """The experiment and its results in a text that `to_json` wrote; `DocumentError` for anything else."""
    try:
        return _document(parse(text, most=most))
    except DocumentError:
        raise
    except AtlasError as error:
        raise DocumentError(one_line(error)) from None


def _plain(experiment: Experiment) -> dict[str, Any]:
    if not experiment.model:
        raise AtlasError("The experiment does not say which model it is for. Give it the model's name.")
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": {"name": experiment.model, "weights_sha256": experiment.weights_sha256},
        **{name: value for name in ("atlas_id", "fact_id") if (value := getattr(experiment, name))},
        "interventions": [to_plain(item) for item in experiment.interventions],
        "prompts": [_plain_asked(item) for item in experiment.asked],
        "seed": experiment.seed,
        "draws": experiment.draws,
    }


def _plain_asked(item: Asked) -> dict[str, str]:
    origin = {"fact_id": item.prompt.fact_id, "template_id": item.prompt.template_id}
    plain = {"group": item.group, "text": item.prompt.text, "answer": item.prompt.answer}
    return plain | {name: value for name, value in origin.items() if value}


def _plain_results(results: Results) -> dict[str, Any]:
    def said(value: Said) -> dict[str, Any]:
        return {
            "probability": value.probability,
            "rank": value.rank,
            "top": [list(pair) for pair in value.top],
        }

    def measured(item: Measured) -> dict[str, Any]:
        plain: dict[str, Any] = {"before": said(item.before), "after": said(item.after)}
        plain |= {"random": list(item.random), "random_ranks": list(item.random_ranks)}
        if item.new_before is not None and item.new_after is not None:
            plain |= {"new_before": said(item.new_before), "new_after": said(item.new_after)}
        if item.new_random:
            plain |= {"new_random": list(item.new_random), "new_random_ranks": list(item.new_random_ranks)}
        return plain

    return {
        "undo_is_exact": results.undo_is_exact,
        "device": results.device,
        "dtype": results.dtype,
        "random_neurons": [[str(neuron) for neuron in draw] for draw in results.random_neurons],
        "prompts": [measured(item) for item in results.prompts],
    }


def _document(entry: Any) -> Document:
    record = Record(entry, "The experiment")
    if record.take("format", None) != FORMAT:
        raise DocumentError(f"This JSON is no experiment: it has no format '{FORMAT}'. {REMEDY}")
    version = record.whole("version", 0, 10**9)
    if version not in READABLE:
        raise DocumentError(
            f"The experiment has version {version}; this program reads versions "
            f"{' and '.join(map(str, READABLE))}. Use the program it was made with."
        )
    model = Record(record.take("model"), "The experiment's model")
    name, sha256 = model.text("name", MAX_NAME), model.text("weights_sha256", 64, "")
    if not name.strip() or not _SHA256.fullmatch(sha256):
        raise model.wrong("has no name or a weights_sha256 that is none")
    model.done()
    experiment = Experiment(
        interventions=tuple(several_from_plain(record.take("interventions"))),
        asked=tuple(
            _asked(Record(each, f"Prompt {n}"))
            for n, each in enumerate(record.many("prompts", MAX_PROMPTS), 1)
        ),
        seed=record.whole("seed", 0, MAX_SEED),
        draws=record.whole("draws", 1, MAX_DRAWS),
        model=name,
        weights_sha256=sha256,
        atlas_id=record.text("atlas_id", MAX_NAME, ""),
        fact_id=record.text("fact_id", MAX_NAME, ""),
    )
    results = None
    if "results" in record:
        results = _results(Record(record.take("results"), "The record of results"), experiment)
    record.done()
    return Document(experiment, results)


def _asked(record: Record) -> Asked:
    group, text, answer = (
        record.text("group", 20),
        record.text("text", MAX_TEXT),
        record.text("answer", MAX_TEXT),
    )
    fact_id, template_id = record.text("fact_id", MAX_NAME, ""), record.text("template_id", MAX_NAME, "")
    record.done()
    return Asked(group, Prompt(fact_id, template_id, text, answer))


def _results(record: Record, experiment: Experiment) -> Results:
    measured = [
        _measured(Record(each, f"Result {n}"), experiment.draws)
        for n, each in enumerate(record.many("prompts", MAX_PROMPTS), 1)
    ]
    if len(measured) != len(experiment.asked):
        raise record.wrong(f"is of {len(measured)} prompts, where {len(experiment.asked)} were asked")
    random_neurons = []
    for each in record.many("random_neurons", MAX_DRAWS):
        names = Record({"neurons": each}, "A random draw").texts("neurons", MAX_NEURONS, NAME_LENGTH)
        random_neurons.append(tuple(Neuron.parse(name) for name in names))
    results = Results(
        prompts=tuple(measured),
        random_neurons=tuple(random_neurons),
        undo_is_exact=record.truth("undo_is_exact"),
        device=record.text("device", MAX_NAME, ""),
        dtype=record.text("dtype", MAX_NAME, ""),
    )
    record.done()
    return results


def _measured(record: Record, draws: int) -> Measured:
    random, ranks = _random(record, "random", draws)
    names = ("before", "after")
    new_random, new_ranks = (), ()
    if "new_before" in record:
        names += ("new_before", "new_after")
        if "new_random" in record:
            new_random, new_ranks = _random(record, "new_random", draws)
    said = {name: _said(Record(record.take(name), f"{record.what}, {name},")) for name in names}
    record.done()
    return Measured(
        random=random, random_ranks=ranks, new_random=new_random, new_random_ranks=new_ranks, **said
    )


def _random(record: Record, name: str, draws: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Probabilities and ranks of one answer, an entry a random draw."""
    random = record.numbers(name, MAX_DRAWS, 0, 2)
    ranks = record.wholes(f"{name}_ranks", MAX_DRAWS, 1, MAX_RANK)
    if not len(random) == len(ranks) == draws:
        raise record.wrong(f"has a {name} of {len(random)} draws, where {draws} were asked for")
    return tuple(random), tuple(ranks)


def _said(record: Record) -> Said:
    # Rounding may lift a probability a little above 1.
    probability, rank = record.number("probability", 0, 1.001), record.whole("rank", 1, MAX_RANK)
    top = []
    for pair in record.many("top", MAX_TOP):
        if not isinstance(pair, list) or len(pair) != 2:
            raise record.wrong("has a token without its probability")
        token = Record({"token": pair[0], "probability": pair[1]}, f"A token of {record.what}")
        top.append((token.text("token", MAX_TEXT), token.number("probability", 0, 1.001)))
    record.done()
    return Said(probability, rank, tuple(top))


# As a link -------------------------------------------------------------------------------------------


def to_link(experiment: Experiment) -> str:
    """The experiment as the value of a URL's parameter."""
    plain = json.dumps(_plain(experiment), ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(plain.encode(), 9)).decode().rstrip("=")


def from_link(text: str, *, most: int = MAX_LINK_BYTES) -> Experiment:
    """The experiment in a text that `to_link` wrote, inflated to at most `most` bytes."""
    # Deflate never makes a text of this size a tenth longer, and base64 makes it a third longer.
    if len(text) > 1000 + most * 3 // 2:
        raise DocumentError(
            f"The link is {len(text):,} characters long, more than an experiment has. {REMEDY}"
        )
    broken = DocumentError(f"The link holds no experiment: it is cut off or was changed. {REMEDY}")
    if not _LINK.fullmatch(text):
        raise broken
    inflate = zlib.decompressobj()
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        plain = inflate.decompress(packed, most + 1)
        if len(plain) > most:
            raise DocumentError(f"The link's experiment is larger than {most:,} bytes. Make it smaller.")
        if not inflate.eof or inflate.unused_data:
            raise broken
        return from_json(plain.decode(), most=most)
    except (binascii.Error, zlib.error, UnicodeDecodeError):
        raise broken from None
