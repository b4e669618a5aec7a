"""Sentences to time: short ones of known length, and longer ones for the cost of a token.

bench_prompts("masked", 8)                  # ten tokens each, of whole-word tokenizers
prompts_of_length(subject, 64, 16)          # sixteen prompts of 64 tokens, with the subject's tokenizer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from atlas.errors import BuildError
from atlas.neuron import OBJECT_SLOT, Prompt

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

PROMPT_SEED = 20220308
SUBJECTS = ("france", "italy", "japan", "peru", "kenya", "norway", "egypt", "chile", "nepal", "ghana")
ANSWERS = ("paris", "rome", "tokyo", "lima", "nairobi", "oslo", "cairo", "santiago", "kathmandu", "accra")
PATTERNS = {
    "masked": "the capital of {} is called [Y] .",  # ten tokens with [CLS] and [SEP]
    "causal": "on this old map the capital of {} is called [Y]",  # ten tokens before the answer
}
SHORT = "of {} is [Y]"
FILLERS = ("the", ",")


def words() -> list[str]:
    """Every word of the sentences."""
    text = " ".join((*PATTERNS.values(), SHORT)).replace("[Y]", "")
    return sorted({*text.split(), *SUBJECTS, *ANSWERS} - {"{}"})


def bench_prompts(kind: str, n: int, *, pattern: str | None = None) -> list[Prompt]:
    """`n` prompts of ten tokens (of whole-word tokenizers); the first hundred differ from each other."""
    n_pairs = len(SUBJECTS)
    prompts = []
    for i in range(n):
        subject, answer = SUBJECTS[i % n_pairs], ANSWERS[(i + i // n_pairs) % n_pairs]
        prompts.append(Prompt(f"{i}", "bench", (pattern or PATTERNS[kind]).format(subject), answer))
    return prompts


def prompts_of_length(
    subject: Subject, length: int, n: int, short: Sequence[Prompt] | None = None
) -> list[Prompt]:
    """`n` prompts of `length` tokens each: `short` ones with as many words in front as are wanting."""
    if short is None:
        short = bench_prompts(subject.family.kind, min(n, len(SUBJECTS)), pattern=SHORT)
    longer = [found for prompt in short if (found := _lengthened(subject, prompt, length)) is not None]
    if not longer:
        raise BuildError(f"No prompt of {subject.name} has exactly {length} tokens. Give another length.")
    return [longer[i % len(longer)] for i in range(n)]


def _lengthened(subject: Subject, prompt: Prompt, length: int) -> Prompt | None:
    """The prompt with words in front, or None where none of them makes it as long as that."""
    missing = length - len(subject.encode(prompt).input_ids)
    # The first word may be written as two tokens, and a vocabulary may spell the word that another has whole.
    own = [word for word in prompt.text.split() if OBJECT_SLOT not in word]
    for filler, count in product((*FILLERS, *own), (missing, missing - 1, missing + 1)):
        if count >= 0:
            candidate = replace(prompt, text=" ".join([filler] * count + [prompt.text]))
            if len(subject.encode(candidate).input_ids) == length:
                return candidate
    return None
