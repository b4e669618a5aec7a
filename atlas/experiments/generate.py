"""What a model writes, also with neurons changed: token after token, or gap after gap.

    generate(subject, subject.prompt("The capital of France is", "Paris"))
    generate(subject, prompt, [Suppress(neurons)], n_tokens=20)
    generate_all(subject, prompts, changes)             # of each prompt, under its own change
    texts = write_texts(subject, experiment, prompt, progress=show)
    texts.before.text, texts.after.text, texts.random.text, texts.after_differs

Greedy: each token is the likeliest after those before it. Each place that a token is read from is an answer
position: a causal model's activations are changed at the last token of the prompt and at every generated one,
not at those before; a masked model's at every gap, filled or not, each time one is filled. So the first token
is what `Subject.predict` says under the same change. Keys and values are kept from token to token, a prompt's
own under its own change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from atlas.errors import AtlasError, PromptError
from atlas.experiments.experiment import Experiment
from atlas.experiments.run import Steps, random_controls
from atlas.interventions import Intervention
from atlas.models.known import OnProgress
from atlas.neuron import OBJECT_SLOT, Neuron, Prompt
from atlas.surgery.interventions import Prepared, changing, check_interventions, prepare
from atlas.surgery.loaded import Encoded, batches
from atlas.surgery.subject import Subject

Change = Intervention | Sequence[Intervention]

MOST_TOKENS = 60


def generate(subject: Subject, prompt: Prompt, interventions: Change = (), *, n_tokens: int = 20) -> str:
    """The text that the model puts in the answer's place, at most `n_tokens` tokens; see `generate_all`."""
    return generate_all(subject, [prompt], [interventions], n_tokens=n_tokens)[0]


@torch.no_grad()
def generate_all(
    subject: Subject,
    prompts: Sequence[Prompt | Encoded],
    changes: Sequence[Change],
    *,
    n_tokens: int = 20,
    batch_tokens: int = 2048,
) -> list[str]:
    """What the model puts in each answer's place, each under its own change: `n_tokens` tokens, or fewer
    where it ends the text. The change holds at every generated position, too.

    Raises `PromptError` for a masked model, and where prompt and text are longer than the model reads.
    """
    if n_tokens < 1:
        raise AtlasError(f"n_tokens must be at least 1, got {n_tokens}.")
    if subject.family.kind != "causal":
        raise PromptError(f"{subject.name} fills in masks and cannot continue a text. Choose a causal model.")
    encoded = [subject.unanswered(subject.encode(prompt)) for prompt in prompts]
    for each in encoded:
        _check_room(subject, each, n_tokens)
    made = [prepare(subject, check_interventions(subject, change)) for change in changes]
    texts = [""] * len(encoded)
    with subject.lock.turn():
        for batch in batches(encoded, batch_tokens):
            rows, here = [encoded[index] for index in batch], [made[index] for index in batch]
            said = []
            for column in _greedy(subject, rows, here, n_tokens):
                said.append(column)
                subject.lock.give_way()
            for index, row in zip(batch, torch.cat(said, 1).tolist(), strict=True):
                texts[index] = subject.tokenizer.decode(_until_end(subject, row))
    return texts


def _check_room(subject: Subject, encoded: Encoded, n_tokens: int) -> None:
    if len(encoded.input_ids) + n_tokens > subject.max_length:
        raise PromptError(
            f"The prompt '{encoded.prompt.text[:60]}…' has {len(encoded.input_ids)} tokens, and "
            f"{subject.name} reads at most {subject.max_length}: {n_tokens} more do not fit. Shorten it, or "
            "take fewer."
        )


def _greedy(
    subject: Subject, rows: Sequence[Encoded], changes: Sequence[Prepared], n_tokens: int
) -> Iterator[Tensor]:
    """The next token of each row, (n_rows, 1), up to `n_tokens` times. Rows have one length.

    The model has no hooks while this waits to go on.
    """
    from transformers import DynamicCache

    input_ids, positions, _, valid = subject.tensors(rows)
    ended = torch.zeros(len(rows), 1, dtype=torch.bool, device=subject.device)
    ends = torch.tensor(_ends(subject), dtype=torch.long, device=subject.device)
    cache = DynamicCache()
    for _ in range(n_tokens):
        with changing(subject, changes, positions, valid):
            after = subject.model.base_model(input_ids, past_key_values=cache, use_cache=True)
        input_ids = subject.family.say(subject.model, after.last_hidden_state[:, -1:]).argmax(-1)
        positions = torch.zeros_like(positions)  # from now on one token at a time
        yield input_ids
        ended |= torch.isin(input_ids, ends)
        if bool(ended.all()):
            return


def _ends(subject: Subject) -> list[int]:
    """The tokens that end a text."""
    ends = subject.model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _until_end(subject: Subject, row: Sequence[int]) -> list[int]:
    """A row's tokens, up to one that ends a text."""
    ends = _ends(subject)
    return list(takewhile(lambda token: token not in ends, row))


# Under three conditions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What a model wrote: the text, its tokens, and what each of them adds to the text.

    Of a causal model the text goes on after the prompt, and the pieces joined are the text. Of a masked one
    it is the sentence with its gaps filled, and the pieces are what fills them.
    """

    text: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """What a model writes as it is, with the experiment's changes, and with them on random neurons.

    random_neurons: the experiment's first draw.
    """

    before: Written
    after: Written
    random: Written
    random_neurons: tuple[Neuron, ...]

    @property
    def after_differs(self) -> int | None:
        """The place of the first token that differs from the unchanged text, from 0; None where none does."""
        return _first_different(self.before.tokens, self.after.tokens)

    @property
    def random_differs(self) -> int | None:
        """The same of the text with random neurons changed."""
        return _first_different(self.before.tokens, self.random.tokens)


def _first_different(one: Sequence[int], two: Sequence[int]) -> int | None:
    if tuple(one) == tuple(two):
        return None
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))
    return len(list(same))


@torch.no_grad()
def write_texts(
    subject: Subject,
    experiment: Experiment,
    asked: Prompt | str,
    *,
    n_tokens: int = 20,
    progress: OnProgress | None = None,
) -> Texts:
    """What the model writes as it is, with the experiment's interventions, and with them on random neurons.

    asked: a prompt, or a text with its gap, of a masked model with one or several. A causal model goes on for
    `n_tokens` tokens, 1 to 60, or fewer where it ends the text. A masked one fills gaps from left to right,
    each with its likeliest token before the next: as many as the prompt's answer has tokens, or one for each
    gap of a text. The interventions hold at every generated position, and at every gap. Between two tokens
    others use the model (`atlas.experiments.run`); `progress` may raise to stop. Raises `PromptError` for
    what the model cannot read.
    """
    if not 1 <= n_tokens <= MOST_TOKENS:
        raise AtlasError(f"n_tokens must be between 1 and {MOST_TOKENS}, got {n_tokens}.")
    own = check_interventions(subject, experiment.interventions)
    random = random_controls(subject, experiment, own)[0]
    kind = _Continued if subject.family.kind == "causal" else _Filled
    writing: _Continued | _Filled = kind(subject, asked, n_tokens)
    steps, said = Steps(subject, writing.n_tokens, progress), []
    with steps.step("Reading", counts=0):
        columns = writing.columns([prepare(subject, change) for change in ((), own, random)])
    for number in range(1, writing.n_tokens + 1):
        with steps.step(f"Token {number} of {writing.n_tokens}"):
            column = next(columns, None)
        if column is None:
            break
        said.append(column)
    steps.report("Done")
    before, after, by_chance = map(writing.written, torch.cat(said, 1).tolist())
    neurons = sorted({neuron for item in random for neuron in item.neurons})
    return Texts(before, after, by_chance, tuple(neurons))


class _Continued:
    """A causal model's text after a prompt."""

    def __init__(self, subject: Subject, asked: Prompt | str, n_tokens: int) -> None:
        self.subject, self.n_tokens = subject, n_tokens
        encoded = subject.opened(asked) if isinstance(asked, str) else subject.encode(asked)
        self.encoded = subject.unanswered(encoded)
        _check_room(subject, self.encoded, n_tokens)

    def columns(self, changes: Sequence[Prepared]) -> Iterator[Tensor]:
        return _greedy(self.subject, [self.encoded] * len(changes), changes, self.n_tokens)

    def written(self, row: Sequence[int]) -> Written:
        tokens, pieces, done = _until_end(self.subject, row), [], 0
        text = self.subject.tokenizer.decode(tokens)
        for number in range(1, len(tokens) + 1):
            # A character of several tokens belongs to the one that completes it.
            so_far = self.subject.tokenizer.decode(tokens[:number]).rstrip("\ufffd")
            end = len(text) if number == len(tokens) else max(done, min(len(so_far), len(text)))
            pieces.append(text[done:end])
            done = end
        return Written(text, tuple(tokens), tuple(pieces))


class _Filled:
    """A masked model's text, gap by gap."""

    def __init__(self, subject: Subject, asked: Prompt | str, n_tokens: int) -> None:
        self.subject = subject
        if isinstance(asked, str):
            self.ids, self.places = subject.gaps(asked)
            self.parts, self.n_each = subject.mark(asked).split(OBJECT_SLOT), 1
        else:
            encoded = subject.encode(asked)
            self.ids, self.places = encoded.input_ids, encoded.positions
            self.parts, self.n_each = [asked.before, asked.after], len(encoded.positions)
        self.n_tokens = len(self.places)
        if self.n_tokens > MOST_TOKENS:
            raise PromptError(f"The text has {self.n_tokens} gaps. Give at most {MOST_TOKENS}.")

    def columns(self, changes: Sequence[Prepared]) -> Iterator[Tensor]:
        subject = self.subject
        input_ids = torch.tensor([self.ids] * len(changes), device=subject.device)
        positions = torch.tensor([self.places] * len(changes), device=subject.device)
        for place in self.places:
            with changing(subject, changes, positions, torch.ones_like(positions, dtype=torch.bool)):
                hidden = subject.model.base_model(input_ids).last_hidden_state
            input_ids[:, place] = subject.family.say(subject.model, hidden[:, place]).argmax(-1)
            yield input_ids[:, place, None]

    def written(self, row: Sequence[int]) -> Written:
        gaps = [row[start : start + self.n_each] for start in range(0, len(row), self.n_each)]
        fillings = [self.subject.tokenizer.decode(gap).strip() for gap in gaps]
        text = "".join(text for pair in zip(self.parts, [*fillings, ""], strict=True) for text in pair)
        return Written(text, tuple(row), tuple(map(self.subject.token_text, row)))
