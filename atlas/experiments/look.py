"""A first look at a sentence: the likeliest answers, and how one of them arises layer by layer.

seen = look(subject, "The capital of France is")
seen.top[0]                          # ("Paris", 0.71): the likeliest token, as text, and its probability
seen.answer, seen.lens.layers[5]     # the answer that is followed, and what layer 5 would answer
"""

from __future__ import annotations

from dataclasses import dataclass

from atlas.errors import PromptError
from atlas.models.known import OnProgress
from atlas.neuron import OBJECT_SLOT, Prompt
from atlas.surgery.lens import Lens, lens
from atlas.surgery.subject import Subject

_BLANK = "____"
_ENDS = ".?! "


@dataclass(frozen=True)
class Look:
    """What the model says in a sentence's gap: its likeliest tokens, (text, probability), and the lens."""

    prompt: Prompt
    top: tuple[tuple[str, float], ...]
    lens: Lens

    @property
    def answer(self) -> str:
        """The answer that the lens follows."""
        return self.prompt.answer


def with_gap(subject: Subject, text: str) -> str:
    """A sentence as typed, with ``[Y]`` for its gap, which may be written ``____`` or as a mask.

    Without one the gap comes last.
    """
    text = subject.mark(text.strip().replace(_BLANK, OBJECT_SLOT))
    if OBJECT_SLOT not in text and subject.family.kind == "masked":
        text = f"{text.rstrip(_ENDS)} {OBJECT_SLOT}."
    return subject.opened(text).prompt.text


def look(
    subject: Subject, text: str, answer: str = "", *, top_k: int = 5, progress: OnProgress | None = None
) -> Look:
    """The likeliest tokens in the sentence's gap, and the lens of the answer: by default the likeliest word.

    Raises `PromptError` for a sentence that the model cannot read.
    """
    text = with_gap(subject, text)
    asked = subject.encode(subject.opened(text))
    if progress is not None:
        progress(0.0, "Reading the sentence")
    top = subject.predict([asked], top_k=max(top_k, 20))[0].top
    if not answer:
        words = [token.strip() for token, _ in top if any(letter.isalnum() for letter in token)]
        if not words:
            raise PromptError(f"{subject.name} expects no word there. Go on with the sentence, or answer it.")
        answer = words[0]
    prompt = subject.prompt(text, answer)
    return Look(prompt, tuple(top[:top_k]), lens(subject, [prompt])[0])
