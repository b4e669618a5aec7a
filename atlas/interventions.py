"""Interventions as plain values, which can be listed, compared and applied.

    change = [Suppress(neurons), Edit(neurons, old="Paris", new="Rome")]
    with subject.applied(change) as changed: ...       # atlas.surgery.interventions applies them

`atlas.experiments.documents` turns them into JSON and links. Needs no torch, so that a permalink is checked
before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atlas.errors import AtlasError, PromptError
from atlas.neuron import ANY_WORD, Neuron, Prompt, check_text

MAX_FACTOR = 100
MAX_ACTIVATION = 10_000  # of `SetTo`
# What a new edit starts with. The paper's (1, 8), which `Edit` keeps, changes most other facts, too
# (docs/what-they-show.md).
NEW_STRENGTHS = (1.0, 2.0)


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
        if not -MAX_FACTOR <= self.factor <= MAX_FACTOR:
            raise AtlasError(f"factor must be between -{MAX_FACTOR} and {MAX_FACTOR}, got {self.factor}.")


@dataclass(frozen=True)
class SetTo:
    """Set the neurons' activations at the answer position to a number."""

    neurons: tuple[Neuron, ...]
    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", _neurons(self.neurons))
        if isinstance(self.value, str) or not -MAX_ACTIVATION <= self.value <= MAX_ACTIVATION:
            raise AtlasError(
                f"value must be a number between -{MAX_ACTIVATION} and {MAX_ACTIVATION}, got {self.value}."
            )


@dataclass(frozen=True)
class Patch:
    """Set the neurons' activations at the answer position to what they are at another prompt's.

    from_prompt: its text, with one ``[Y]`` where the answer goes; the unchanged model reads it.
    """

    neurons: tuple[Neuron, ...]
    from_prompt: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", _neurons(self.neurons))
        if not isinstance(self.from_prompt, str):
            raise AtlasError(f"The prompt of a patch must be text, got {self.from_prompt!r}.")
        Prompt("", "", self.from_prompt, ANY_WORD)  # raises where the text is none of a prompt


@dataclass(frozen=True)
class Erase:
    """Replace the neurons' value vectors by zero or by the unknown token's embedding."""

    neurons: tuple[Neuron, ...]
    value: Literal["zero", "unk"] = "zero"

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", _neurons(self.neurons))
        if self.value not in ("zero", "unk"):
            raise AtlasError(f"value must be 'zero' or 'unk', got '{self.value}'.")


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
                raise AtlasError(f"The answers of an edit must be text, got {answer!r}.")
            check_text("The answer", answer)
        for name, strength in (("remove", self.remove), ("add", self.add)):
            if not 0 <= strength <= 1000:
                raise AtlasError(f"{name} must be between 0 and 1000, got {strength}.")


# What changes activations at the answer position; the others change value vectors, for every token.
ActivationChange = Suppress | Amplify | SetTo | Patch
Intervention = ActivationChange | Erase | Edit
INTERVENTION_KINDS: dict[str, type] = {
    "suppress": Suppress,
    "amplify": Amplify,
    "set": SetTo,
    "patch": Patch,
    "erase": Erase,
    "edit": Edit,
}

MAX_INTERVENTIONS = 100
MAX_NEURONS = 50_000  # of one intervention


def as_tuple(interventions: Intervention | Sequence[Intervention]) -> tuple[Intervention, ...]:
    """One or several interventions as a tuple."""
    return (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)


def kind_of(item: Intervention) -> str:
    """Its name in `INTERVENTION_KINDS`."""
    return next(name for name, each in INTERVENTION_KINDS.items() if type(item) is each)


def make_intervention(
    kind: str,
    neurons: Sequence[Neuron],
    *,
    factor: float = 2.0,
    value: Any = "zero",
    from_prompt: str = "",
    old: str = "",
    new: str = "",
    remove: float = NEW_STRENGTHS[0],
    add: float = NEW_STRENGTHS[1],
) -> Intervention:
    """The intervention of that kind; options of other kinds are ignored."""
    match kind:
        case "suppress":
            return Suppress(tuple(neurons))
        case "amplify":
            return Amplify(tuple(neurons), factor)
        case "set":
            return SetTo(tuple(neurons), value)
        case "patch":
            return Patch(tuple(neurons), from_prompt.strip())
        case "erase":
            return Erase(tuple(neurons), value)
        case "edit":
            if not old.strip() or not new.strip():
                raise PromptError("An edit needs an old and a new answer. Give both.")
            return Edit(tuple(neurons), old.strip(), new.strip(), remove, add)
    raise AtlasError(f"kind must be one of {', '.join(INTERVENTION_KINDS)}, got '{kind}'.")
