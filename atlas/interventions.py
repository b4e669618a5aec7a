"""Interventions are values: they can be listed, saved as JSON, put in a URL, and applied.

    change = [Suppress(neurons), Edit(neurons, old="Paris", new="Rome")]
    from_json(to_json(change)) == change
    with subject.applied(change) as changed: ...       # atlas.surgery.interventions says what they do

Needs no torch, so that a permalink is read, and refused, before a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atlas.errors import AtlasError, DocumentError, PromptError
from atlas.experiments.reading import Record, one_line, parse
from atlas.neuron import Neuron


def _neurons(neurons: Sequence[Neuron]) -> tuple[Neuron, ...]:
    return tuple(sorted(set(neurons)))


@dataclass(frozen=True)
class Suppress:
    """Set the neurons' activations at the answer position to zero."""

    neurons: tuple[Neuron, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", _neurons(self.neurons))


@dataclass(frozen=True)
class Amplify:
    """Multiply the neurons' activations at the answer position."""

    neurons: tuple[Neuron, ...]
    factor: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", _neurons(self.neurons))
        if not -100 <= self.factor <= 100:
            raise AtlasError(f"An amplification by {self.factor} is absurd. Give a factor from -100 to 100.")


@dataclass(frozen=True)
class Erase:
    """Replace the neurons' value vectors by zero or by the unknown token's embedding."""

    neurons: tuple[Neuron, ...]
    value: Literal["zero", "unk"] = "zero"

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", _neurons(self.neurons))
        if self.value not in ("zero", "unk"):
            raise AtlasError(f"Value vectors cannot be erased with '{self.value}'. Use zero or unk.")


@dataclass(frozen=True)
class Edit:
    """Move the neurons' value vectors from the old answer's embedding to the new one's."""

    neurons: tuple[Neuron, ...]
    old: str
    new: str
    remove: float = 1.0
    add: float = 8.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", _neurons(self.neurons))
        for answer in (self.old, self.new):
            if not isinstance(answer, str):
                raise AtlasError(f"An edit's answer is text, not {answer!r}. Write a word.")
        for strength in (self.remove, self.add):
            if not 0 <= strength <= 1000:
                raise AtlasError(f"An edit of strength {strength} is absurd. Give one from 0 to 1000.")


Intervention = Suppress | Amplify | Erase | Edit
KINDS: dict[str, type] = {"suppress": Suppress, "amplify": Amplify, "erase": Erase, "edit": Edit}

MAX_INTERVENTIONS = 100
MAX_NEURONS = 50_000  # of one intervention
MAX_ANSWER = 200
_MAX_BYTES = 5_000_000
NAME_LENGTH = 24


def to_json(interventions: Intervention | Sequence[Intervention]) -> str:
    """The interventions as a JSON list, short enough for a URL."""
    several = interventions if isinstance(interventions, (list, tuple)) else [interventions]
    return json.dumps([to_plain(item) for item in several], ensure_ascii=False)


def to_plain(item: Intervention) -> dict[str, Any]:
    """One intervention as JSON knows it."""
    names = {kind: name for name, kind in KINDS.items()}
    return {"kind": names[type(item)], **vars(item), "neurons": [str(n) for n in item.neurons]}


def from_json(text: str) -> list[Intervention]:
    """The list that `to_json` wrote; `DocumentError` for anything else."""
    return several_from_plain(parse(text, most=_MAX_BYTES))


def several_from_plain(entries: Any) -> list[Intervention]:
    """Interventions from a list that JSON gave, everything checked."""
    if not isinstance(entries, list) or len(entries) > MAX_INTERVENTIONS:
        raise DocumentError(
            f"This is no list of up to {MAX_INTERVENTIONS} interventions. Write, for example, "
            '[{"kind": "suppress", "neurons": ["L9.N2141"]}].'
        )
    return [_from_plain(Record(entry, f"Change {n}")) for n, entry in enumerate(entries, 1)]


def _from_plain(record: Record) -> Intervention:
    kind = record.text("kind", NAME_LENGTH)
    if kind not in KINDS:
        raise DocumentError(f"No intervention is called '{one_line(kind)}'. There are: {', '.join(KINDS)}.")
    names = record.texts("neurons", MAX_NEURONS, NAME_LENGTH)
    try:
        neurons = tuple(Neuron.parse(name) for name in names)
    except AtlasError as error:
        raise DocumentError(one_line(error)) from None
    options: dict[str, Any] = {}
    match kind:
        case "amplify":
            options["factor"] = record.number("factor", -100, 100, 2.0)
        case "erase":
            options["value"] = record.text("value", NAME_LENGTH, "zero")
            if options["value"] not in ("zero", "unk"):
                raise record.wrong("erases neither with zero nor with unk")
        case "edit":
            options["old"], options["new"] = (record.text(name, MAX_ANSWER) for name in ("old", "new"))
            options["remove"] = record.number("remove", 0, 1000, 1.0)
            options["add"] = record.number("add", 0, 1000, 8.0)
    record.done()
    return KINDS[kind](neurons, **options)


def make_intervention(
    kind: str,
    neurons: Sequence[Neuron],
    *,
    factor: float = 2.0,
    value: str = "zero",
    old: str = "",
    new: str = "",
    remove: float = 1.0,
    add: float = 8.0,
) -> Intervention:
    """The intervention of that kind; options of other kinds are passed over."""
    match kind:
        case "suppress":
            return Suppress(tuple(neurons))
        case "amplify":
            return Amplify(tuple(neurons), factor)
        case "erase":
            return Erase(tuple(neurons), value)
        case "edit":
            if not old.strip() or not new.strip():
                raise PromptError("An edit needs the old answer and a new one. Type both.")
            return Edit(tuple(neurons), old.strip(), new.strip(), remove, add)
    raise AtlasError(f"No intervention is called '{kind}'. There are: {', '.join(KINDS)}.")
