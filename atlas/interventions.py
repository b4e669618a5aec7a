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
from typing import Literal

from atlas.errors import AtlasError, PromptError
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


def to_json(interventions: Intervention | Sequence[Intervention]) -> str:
    """The interventions as a JSON list, short enough for a URL."""
    several = interventions if isinstance(interventions, (list, tuple)) else [interventions]
    names = {kind: name for name, kind in KINDS.items()}
    return json.dumps(
        [
            {"kind": names[type(item)], **vars(item), "neurons": [str(n) for n in item.neurons]}
            for item in several
        ],
        ensure_ascii=False,
    )


def from_json(text: str) -> list[Intervention]:
    """The list that `to_json` wrote; `AtlasError` for anything else."""
    try:
        entries = json.loads(text)
        result = []
        for entry in entries:
            options = dict(entry)
            kind = KINDS[options.pop("kind")]
            options["neurons"] = tuple(Neuron.parse(name) for name in options["neurons"])
            result.append(kind(**options))
        return result
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AtlasError(
            "This is no list of interventions. Write, for example, "
            '[{"kind": "suppress", "neurons": ["L9.N2141"]}].'
        ) from error


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
