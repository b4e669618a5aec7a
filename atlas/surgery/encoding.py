"""A filled-in sentence in tokens, and which of them write the answer.

    placed = place_answer(tokenizer, "the capital of france is ", "paris", " .")
    placed.ids[placed.start : placed.stop]                 # the tokens that write "paris"

A tokenizer cuts a word by what stands around it: SentencePiece's kin mark a space where there is none, BERT's
append ``[SEP]``, byte pairs merge. So the answer is never cut alone.

1. *Fill in*: the text before the answer, the answer and the text after it are joined and cut as one.
2. *Find*: the answer's tokens are those that write one of its characters.
3. *Space*: where a token writes nothing but the one space before the answer, it is the answer's first token,
   as the space in ``Ġparis`` is part of it. Any other white space belongs to the text before the answer.
4. *Refuse* a token that writes the answer and other text, too: no model can be asked for half a token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from atlas.errors import PromptError
from atlas.neuron import ANY_WORD, check_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How byte pairs and SentencePiece write a token that is one space.
_SPACES = ("Ġ", "▁", " ")
_MARKS = "Ġ▁# "

# Thai, Lao, Tibetan, Myanmar, Khmer; Chinese and Japanese with their full-width marks.
_WITHOUT_SPACES = (
    "\u0e00-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
# White space, an opening mark, and an elided article as in "d'Italie".
_JOINS_THE_NEXT_WORD = re.compile(rf"(?:[\s({{\[«‹“‘„¿¡{_WITHOUT_SPACES}]|\b\w{{1,2}}['’])$")
_SCRIPT_WITHOUT_SPACES = re.compile(f"[{_WITHOUT_SPACES}]")


@dataclass(frozen=True)
class PlacedAnswer:
    """A sentence in tokens, special ones included; the answer's are ``ids[start:stop]``."""

    ids: tuple[int, ...]
    start: int
    stop: int


def space_after(text: str) -> str:
    """What a writer puts between the text and the word that goes on: a space, or nothing."""
    return "" if _JOINS_THE_NEXT_WORD.search(text) else " "


def answer_alone(tokenizer: PreTrainedTokenizerBase, answer: str) -> PlacedAnswer:
    """The answer in a sentence of its script, where no prompt is at hand."""
    return place_answer(tokenizer, "a" if _SCRIPT_WITHOUT_SPACES.match(answer) else "a ", answer)


def place_answer(
    tokenizer: PreTrainedTokenizerBase, before: str, answer: str, after: str = ""
) -> PlacedAnswer:
    """The sentence `before` + `answer` + `after` in tokens, with the answer's place.

    start == stop where the tokenizer drops the whole answer. Raises `PromptError` where a token writes the
    answer and other text, too.
    """
    text = before + answer + after
    check_text("The text", text)
    if not tokenizer.is_fast:
        return _place_by_tokens(tokenizer, before, answer, text)
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids, spans = tuple(encoding["input_ids"]), encoding["offset_mapping"]
    begin, end = len(before), len(before) + len(answer)
    inside = [k for k, (left, right) in enumerate(spans) if left < end and right > begin]
    # SentencePiece's kin begin a text with a mark that claims the first letter's place.
    while inside and _is_blank(tokenizer, ids[inside[0]]):
        del inside[0]
    if not inside:
        return PlacedAnswer(ids, 0, 0)
    start, stop = inside[0], inside[-1] + 1
    for token in (start, stop - 1):
        left, right = spans[token]
        beside = text[left:begin] + text[end:right]
        own = min(right, end) - max(left, begin)
        if beside.strip() and len(_piece(tokenizer, ids[token]).lstrip(_MARKS)) > own:
            raise _shared_token(answer, text, _piece(tokenizer, ids[token]))
    if start and before.endswith(" "):
        first, precedes = (_piece(tokenizer, token) for token in (ids[start], ids[start - 1]))
        start -= precedes in _SPACES and not first.startswith(_SPACES)
    return PlacedAnswer(ids, start, stop)


def place_gaps(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str]) -> tuple[list[int], list[int]]:
    """The parts of a text with one mask between each two, in tokens, and the positions of the masks."""
    placed = [
        place_answer(tokenizer, ANY_WORD.join(parts[:k]), ANY_WORD, ANY_WORD.join(parts[k:]))
        for k in range(1, len(parts))
    ]
    ids = list(placed[0].ids) if placed else []
    for gap in reversed(placed):
        ids[gap.start : gap.stop] = [tokenizer.mask_token_id]
    return ids, [place for place, token in enumerate(ids) if token == tokenizer.mask_token_id]


def n_appended(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts after a text."""
    special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return len(list(takewhile(bool, reversed(special))))


def _piece(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The token as the vocabulary writes it; an unknown token writes nothing that can be shared."""
    return "" if token == tokenizer.unk_token_id else str(tokenizer.convert_ids_to_tokens(token))


def _is_blank(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    return not tokenizer.convert_tokens_to_string([str(tokenizer.convert_ids_to_tokens(token))]).strip()


def _place_by_tokens(tokenizer: PreTrainedTokenizerBase, before: str, answer: str, text: str) -> PlacedAnswer:
    """The same for tokenizers written in Python, which do not say which characters a token writes."""
    ids = tuple(tokenizer.encode(text))
    targets = tuple(tokenizer.encode(answer, add_special_tokens=False))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(ids, tokenizer.encode(before), strict=False))
    start = len(list(same))
    stop = start + len(targets)
    if ids[start:stop] != targets:
        raise _shared_token(answer, text, *tokenizer.convert_ids_to_tokens(ids[start : start + 1]))
    return PlacedAnswer(ids, start, stop)


def _shared_token(answer: str, text: str, *token: str) -> PromptError:
    return PromptError(
        f"The token '{''.join(token)}' writes the answer '{answer}' and text beside it in '{text}'. "
        "Put a space between them, or choose other words."
    )
