"""The nouns of the project: neuron, fact, relation, template, prompt.

    Neuron.parse("L9.N2141")                          # Neuron(layer=9, neuron=2141)
    template = Template("P36.0", "P36", "The capital city of [X] is called [Y].")
    template.prompt(Fact("…", "P36", "France", "Paris")).text   # "The capital city of France is …"

Frozen dataclasses of the standard library only, so that every module can import them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from atlas.errors import AtlasError, PromptError

SUBJECT_SLOT = "[X]"
OBJECT_SLOT = "[Y]"
# Stands in a prompt's gap where the answer is not known; tokenizers cut a word by what stands around it.
ANY_WORD = "a"

# The groups of an experiment's prompts, with the names that people read: those the neurons were found on,
# held-out templates of the same fact, other facts of the relation, facts that differ in relation and object.
PROMPT_GROUPS = {
    "asked": "Discovery prompts",
    "paraphrases": "Held-out paraphrases",
    "neighbours": "Same relation",
    "unrelated": "Unrelated facts",
}

# What a fact may be marked as: the names of fields of `Fact`.
MARKS = ("contested", "guessable")

_NEURON_NAME = re.compile(r"L(\d+)\.N(\d+)")
# The marks that end a sentence, after the answer: Western, Chinese and Japanese, Hindi, Arabic and Urdu.
ENDS_WITH_OBJECT = re.compile(r"\[Y\]\s*[.?!»。．？！।؟۔]?\s*$")


def check_text(what: str, text: str, error: type[AtlasError] = PromptError) -> None:
    """Raises `error` for a text with half a character (a lone surrogate), which no tokenizer takes.

    JSON can hold one as \\ud83d: the beginning of an emoji that was cut.
    """
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        shown = text[:100].encode(errors="backslashreplace").decode()
        raise error(
            f"{what} '{shown}' has half a character, {ascii(text[problem.start])[1:-1]}. "
            "Write it whole, or remove it."
        ) from None


@dataclass(frozen=True, order=True)
class Neuron:
    """One input of a layer's feed-forward down-projection, written ``L9.N2141``."""

    layer: int
    neuron: int

    def __str__(self) -> str:
        return f"L{self.layer}.N{self.neuron}"

    @classmethod
    def parse(cls, name: str) -> Neuron:
        """The neuron written like ``L9.N2141``; `AtlasError` for anything else."""
        match = _NEURON_NAME.fullmatch(name.strip())
        if match is None:
            raise AtlasError(f"'{name}' is not a neuron. Write layer and index like L9.N2141.")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Relation:
    """A relation between subject and object, by its Wikidata property id."""

    relation_id: str
    label: str

    def __post_init__(self) -> None:
        for text in (self.relation_id, self.label):
            check_text("The relation", text)


@dataclass(frozen=True)
class Fact:
    """A subject, a relation and an object; `source` says where the fact was taken from.

    contested: several answers are defensible. guessable: the subject suggests its answer. None: nobody has
    said.
    """

    fact_id: str
    relation_id: str
    subject: str
    object: str
    source: str = ""
    # Not in the repr, of which hashes of data sets without marks are made.
    contested: bool | None = field(default=None, repr=False)
    guessable: bool | None = field(default=None, repr=False)

    @property
    def marks(self) -> str:
        """The names of the marks that the fact has, joined by spaces."""
        return " ".join(mark for mark in MARKS if getattr(self, mark))

    def __post_init__(self) -> None:
        for text in (self.subject, self.object, self.fact_id, self.source):
            check_text("The fact's text", text)


@dataclass(frozen=True)
class Template:
    """A sentence with one ``[X]`` for the subject and one ``[Y]`` for the object."""

    template_id: str
    relation_id: str
    pattern: str

    def __post_init__(self) -> None:
        check_text("The template", self.pattern)
        for slot in (SUBJECT_SLOT, OBJECT_SLOT):
            if self.pattern.count(slot) != 1:
                raise PromptError(
                    f"Template {self.template_id} has {self.pattern.count(slot)} {slot} in "
                    f"'{self.pattern}'. Write exactly one."
                )

    @property
    def ends_with_object(self) -> bool:
        """Whether the object comes last (a mark that ends the sentence may follow), as causal models need."""
        return ENDS_WITH_OBJECT.search(self.pattern) is not None

    def prompt(self, fact: Fact) -> Prompt:
        """The template with the subject filled in and the answer left open."""
        return Prompt(
            fact_id=fact.fact_id,
            template_id=self.template_id,
            text=self.pattern.replace(SUBJECT_SLOT, fact.subject),
            answer=fact.object,
        )


@dataclass(frozen=True)
class Prompt:
    """A text with one ``[Y]`` where the answer goes, and the answer."""

    fact_id: str
    template_id: str
    text: str
    answer: str

    def __post_init__(self) -> None:
        check_text("The prompt", self.text)
        check_text("The answer", self.answer)
        count = self.text.count(OBJECT_SLOT)
        if count != 1:
            raise PromptError(
                f"The prompt '{self.text}' has {count} places for the answer. "
                f"Write exactly one {OBJECT_SLOT}."
            )
        if not self.answer.strip():
            raise PromptError(f"The prompt '{self.text}' has an empty answer. Give one.")

    @property
    def ends_with_answer(self) -> bool:
        """Whether the answer comes last (a mark that ends the sentence may follow), as causal models need."""
        return ENDS_WITH_OBJECT.search(self.text) is not None

    @property
    def before(self) -> str:
        """The text before the answer, exactly as written."""
        return self.text.split(OBJECT_SLOT)[0]

    @property
    def after(self) -> str:
        """The text after the answer, exactly as written."""
        return self.text.split(OBJECT_SLOT)[1]

    @property
    def stem(self) -> str:
        """What a causal model reads: the text before the answer, without the space between them."""
        return self.before.removesuffix(" ")


@dataclass(frozen=True)
class ExperimentPrompt:
    """A prompt of an experiment and its group, one of `PROMPT_GROUPS`."""

    group: str
    prompt: Prompt

    def __post_init__(self) -> None:
        if self.group not in PROMPT_GROUPS:
            raise PromptError(f"group must be one of {', '.join(PROMPT_GROUPS)}, got '{self.group}'.")
