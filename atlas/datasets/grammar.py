"""Minimal pairs of English grammar: this project's own sentences, of which one word is right and one wrong.

    pairs = load_grammar()
    pairs[0].prompts(causal=True)[0].text     # "Everyone knows that the keys [Y]"
    pairs[0].good, pairs[0].bad               # "are", "is"

Niu et al. (*What does the Knowledge Neuron Thesis Have to do with Knowledge?*, ICLR 2024) ask whether neurons
can be found for grammar as for facts, with the pairs of BLiMP. These are written for this project (MIT), in
`grammar.json`: ten phenomena with 25 pairs each, in the same eight wordings, which differ in what comes
before the sentence. As of a fact's templates, every second one is held out.

The word comes last, so that causal models can be asked; for masked models the sentence goes on behind it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from atlas.neuron import SUBJECT_SLOT, Prompt

_PATH = Path(__file__).parent / "grammar.json"


@dataclass(frozen=True)
class MinimalPair:
    """The beginning of a sentence with the word that goes on rightly, and one that does not.

    label: the phenomenon in words; after: how the sentence ends behind the word, for masked models.
    """

    pair_id: str
    phenomenon: str
    label: str
    stem: str
    good: str
    bad: str
    after: str
    wordings: tuple[str, ...]

    def prompts(self, *, causal: bool) -> tuple[Prompt, ...]:
        """A prompt each wording, whose answer is the good word."""
        after = "" if causal else self.after
        return tuple(
            Prompt(
                self.pair_id,
                f"{self.phenomenon}.{index}",
                wording.replace(SUBJECT_SLOT, self.stem) + after,
                self.good,
            )
            for index, wording in enumerate(self.wordings)
        )

    @staticmethod
    def holds_out(prompt: Prompt) -> bool:
        """Whether the prompt finds no neurons: every second wording."""
        return int(prompt.template_id.rpartition(".")[2]) % 2 == 1


def load_grammar() -> tuple[MinimalPair, ...]:
    """Every pair, phenomenon by phenomenon."""
    found = json.loads(_PATH.read_text(encoding="utf-8"))
    wordings = tuple(found["templates"])
    return tuple(
        MinimalPair(
            f"{each['phenomenon']}:{number}",
            each["phenomenon"],
            each["label"],
            stem,
            good,
            bad,
            each["after"],
            wordings,
        )
        for each in found["phenomena"]
        for number, (stem, good, bad) in enumerate(each["pairs"])
    )
