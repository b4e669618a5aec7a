"""An unchanged model with its tokenizer: sizes, encoded prompts, activations and predictions.

    loaded = load_subject("pocket-bert")                   # a `Subject`, which can also be changed
    loaded.encode(loaded.prompt("The capital of France is [MASK].", "Paris")).targets
    loaded.activations(prompts)                            # (n_prompts, n_layers, n_neurons)

An answer of several tokens gets several masks, or teacher forcing in a causal model: `encode` turns a prompt
into token ids, the position of each answer token and the tokens wanted there. Prompts are batched with others
of the same length only, so no padding can leak into a score.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atlas.errors import ModelError, PromptError
from atlas.models.families import Family
from atlas.neuron import ANY_WORD, OBJECT_SLOT, Neuron, Prompt
from atlas.surgery.encoding import (
    PlacedAnswer,
    answer_alone,
    place_answer,
    place_gaps,
    space_after,
)
from atlas.surgery.hooks import recording
from atlas.surgery.lock import FairLock

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Encoded:
    """A prompt in tokens: where its answer goes and which tokens the answer is.

    `input_ids` holds the masks, or the answer's tokens except the last (teacher forcing); the model's output
    at ``positions[j]`` predicts ``targets[j]``.
    """

    prompt: Prompt
    input_ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """The model's prediction at the answer position.

    probability: of the whole answer, the product over its tokens; rank: the worst token's rank
    (1: greedy decoding gives the answer); top: the likeliest tokens at the first answer position.
    """

    probability: float
    rank: int
    token_probabilities: tuple[float, ...]
    top: tuple[tuple[str, float], ...]

    @property
    def top_token(self) -> str:
        """The likeliest token at the first answer position."""
        return self.top[0][0]

    @property
    def top_probability(self) -> float:
        """The probability of `top_token`."""
        return self.top[0][1]


@dataclass(frozen=True)
class TokenPrediction:
    """The prediction of one answer token: its probability and rank, and the likeliest tokens there."""

    probability: float
    rank: int
    top: tuple[tuple[str, float], ...]


def whole_answer(tokens: Sequence[TokenPrediction]) -> Prediction:
    """The answer's prediction from its tokens', in their order."""
    return Prediction(
        probability=math.prod(token.probability for token in tokens),
        rank=max(token.rank for token in tokens),
        token_probabilities=tuple(token.probability for token in tokens),
        top=tokens[0].top,
    )


def token_predictions(
    loaded: LoadedModel, logits: Tensor, targets: Tensor, *, top_k: int
) -> list[TokenPrediction]:
    """Predictions from logits at answer positions, (n, n_tokens), and the target tokens, (n,)."""
    log_p = logits.log_softmax(-1)
    wanted = log_p.gather(-1, targets[:, None])
    if not bool(torch.isfinite(wanted).all()):
        raise ModelError(f"{loaded.name} returned NaN. Load it in float32 and check the weights.")
    ranks = (log_p > wanted).sum(-1) + 1
    top = log_p.topk(min(top_k, log_p.shape[-1]))
    return [
        TokenPrediction(
            probability=probability,
            rank=rank,
            top=tuple((loaded.token_text(token), p) for token, p in zip(tokens, values, strict=True)),
        )
        for probability, rank, tokens, values in zip(
            wanted[:, 0].exp().tolist(),
            ranks.tolist(),
            top.indices.tolist(),
            top.values.exp().tolist(),
            strict=True,
        )
    ]


@dataclass
class LoadedModel:
    """A model under study with its tokenizer; methods that run it hold `lock`.

    dtype: the precision of the matrix products in sweeps (`atlas.surgery.precision`); all else is float32.
    sweep_bytes: the memory of a sweep's backward pass, None until the first sweep; less after memory ran out.
    """

    name: str
    revision: str
    weights_sha256: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    device: torch.device
    dtype: str
    config_sha256: str = ""
    lock: FairLock = field(default_factory=FairLock)
    sweep_bytes: float | None = None
    # Of the tokens asked for: a readout and an experiment name the same ones again and again.
    _texts: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def identity(self) -> tuple[str, str]:
        """The hashes of its weights and its config: what results may be kept by."""
        return self.weights_sha256, self.config_sha256

    # --- sizes, read from the modules ---

    @property
    def n_layers(self) -> int:
        """Number of layers with a feed-forward part."""
        return len(self.family.layer_modules(self.model))

    @property
    def n_neurons(self) -> int:
        """Number of neurons of a layer, the inputs of its down-projection."""
        return self.family.value_vectors(self.model, 0).shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream, which a value vector is added to."""
        return self.family.value_vectors(self.model, 0).shape[1]

    @property
    def n_tokens(self) -> int:
        """Number of tokens in the unembedding."""
        return self.model.get_submodule(self.family.unembedding).weight.shape[0]

    @property
    def n_embeddings(self) -> int:
        """Number of tokens that the model reads."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def activation_function(self) -> str:
        """The feed-forward activation's name in the model's config."""
        return self.family.activation_of(self.model.config)

    @property
    def max_length(self) -> int:
        """The longest prompt in tokens."""
        return self.family.longest(self.model.config)

    # --- prompts ---

    def mark(self, text: str) -> str:
        """The text with the answer's place written ``[Y]``, where it is written as a mask."""
        for mark in {"[MASK]", "<mask>", self.tokenizer.mask_token or "[MASK]"}:
            text = text.replace(mark, OBJECT_SLOT)
        return text

    def prompt(self, text: str, answer: str) -> Prompt:
        """A prompt from text as typed: ``[Y]`` or ``[MASK]`` marks the answer position.

        A causal model's answer comes last, so there the mark may be left out; a space is put before the
        answer unless the text ends in white space, an opening mark or a script without spaces.
        """
        text = self.mark(text)
        if OBJECT_SLOT not in text and self.family.kind == "causal":
            text = f"{text}{space_after(text)}{OBJECT_SLOT}"
        return Prompt(fact_id="", template_id="", text=text, answer=answer)

    def token_text(self, token_id: int) -> str:
        """A token as text; a leading space is kept, because it is part of the token."""
        if token_id not in self._texts:
            self._texts[token_id] = self._token_text(token_id)
        return self._texts[token_id]

    def _token_text(self, token_id: int) -> str:
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # a vocabulary padded beyond the tokenizer's
            return f"<{token_id}>"
        text = self.tokenizer.convert_tokens_to_string([str(token)])
        return text if text.strip() else repr(text)

    def answer_tokens(self, answer: str, *, before: str | None = None) -> tuple[int, ...]:
        """The answer's tokens after the text `before` (None: inside a sentence of its script).

        Those of a prompt are `encode(prompt).targets`. Raises `PromptError` outside the vocabulary.
        """
        answer = answer.strip()
        if before is None:
            return self._targets(answer, answer_alone(self.tokenizer, answer))
        return self._targets(answer, place_answer(self.tokenizer, before, answer))

    def _targets(self, answer: str, placed: PlacedAnswer) -> tuple[int, ...]:
        ids = placed.ids[placed.start : placed.stop]
        if not ids or (self.tokenizer.unk_token_id in ids and self._unknown_is_no_word):
            raise PromptError(
                f"The answer '{answer}' is outside the vocabulary of {self.name}. Choose another word."
            )
        if len(ids) > MAX_ANSWER_TOKENS:
            raise PromptError(
                f"The answer '{answer[:60]}' has {len(ids)} tokens. Give one of at most {MAX_ANSWER_TOKENS}."
            )
        self.check_embedded(ids, self.n_tokens)
        return ids

    def check_embedded(self, ids: Sequence[int], n_embeddings: int) -> None:
        """Raises `PromptError` for a token that was added to the tokenizer and not to the model."""
        if max(ids) >= n_embeddings:
            raise PromptError(
                f"The token '{self.token_text(max(ids))}' has the number {max(ids):,}, and {self.name} has "
                f"{n_embeddings:,} embeddings. Use the model's own tokenizer, or train an embedding for it."
            )

    @property
    def _unknown_is_no_word(self) -> bool:
        # GPT-2 and kin name their end-of-text token "unknown", though byte-level BPE knows every text.
        tokenizer = self.tokenizer
        return tokenizer.unk_token_id is not None and tokenizer.unk_token_id != tokenizer.eos_token_id

    def encode(self, prompt: Prompt | Encoded) -> Encoded:
        """The prompt in tokens. `PromptError` when the answer has no single place or is too long.

        Callers may pass prompts that are encoded already, as a build does ahead of time.
        """
        if isinstance(prompt, Encoded):
            encoded = prompt
        else:
            masked = self.family.kind == "masked"
            encoded = self._encode_masked(prompt) if masked else self._encode_causal(prompt)
        self._check_read(encoded.prompt.text, encoded.input_ids)
        self.check_embedded(encoded.targets, self.n_tokens)
        return encoded

    def _check_read(self, text: str, ids: Sequence[int]) -> None:
        if len(ids) > self.max_length:
            raise PromptError(
                f"The prompt '{text[:60]}…' has {len(ids)} tokens, but {self.name} reads at most "
                f"{self.max_length}. Shorten it."
            )
        self.check_embedded(ids, self.n_embeddings)

    def _encode_masked(self, prompt: Prompt) -> Encoded:
        mask_id = self.tokenizer.mask_token_id
        placed = place_answer(self.tokenizer, prompt.before, prompt.answer.strip(), prompt.after)
        targets = self._targets(prompt.answer, placed)
        ids = (*placed.ids[: placed.start], *[mask_id] * len(targets), *placed.ids[placed.stop :])
        if ids.count(mask_id) != len(targets):
            raise PromptError(
                f"The prompt '{prompt.text}' has {ids.count(mask_id)} masks for an answer of {len(targets)} "
                f"tokens. Mark one place for the answer, as {OBJECT_SLOT} or {self.tokenizer.mask_token}."
            )
        return Encoded(prompt, ids, tuple(range(placed.start, placed.stop)), targets)

    def _encode_causal(self, prompt: Prompt) -> Encoded:
        if not prompt.ends_with_answer:
            raise PromptError(
                f"The prompt '{prompt.text}' continues after the answer, but {self.name} reads from left "
                "to right. End the prompt with the answer."
            )
        placed = place_answer(self.tokenizer, prompt.before, prompt.answer.strip())
        targets = self._targets(prompt.answer, placed)
        if not placed.start:
            raise PromptError(f"The prompt '{prompt.text}' has no words before the answer. Add some.")
        # Teacher forcing: each token is predicted after those before it. What a tokenizer appends is cut.
        positions = tuple(range(placed.start - 1, placed.stop - 1))
        return Encoded(prompt, placed.ids[: placed.stop - 1], positions, targets)

    def gaps(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A text in tokens, and where its gaps are read, one token each; no answer need be known.

        A masked model's text has one or several; a causal model's ends with one, whose mark may be left out.
        Raises `PromptError` for a text that the model cannot read.
        """
        if self.family.kind == "causal":
            encoded = self.unanswered(self.encode(self.prompt(text, ANY_WORD)))
            return encoded.input_ids, encoded.positions
        ids, places = place_gaps(self.tokenizer, self.mark(text).split(OBJECT_SLOT))
        if not places:
            raise PromptError(
                f"The text '{text[:60]}' has no gap. Write {OBJECT_SLOT} where the answer goes."
            )
        self._check_read(text, ids)
        return tuple(ids), tuple(places)

    def opened(self, text: str) -> Encoded:
        """A text with one gap as a prompt whose answer is not known: `predict` says the likeliest tokens.

        What it says of the answer, its probability and rank, means nothing.
        """
        prompt = self.prompt(text, ANY_WORD)
        ids, places = self.gaps(prompt.text)
        return Encoded(prompt, ids, places, ids[places[0] : places[0] + 1])

    def unanswered(self, encoded: Encoded) -> Encoded:
        """The prompt up to its first answer position: a causal model is given the answer's tokens, too.

        A masked model is given none: there it is the same.
        """
        if self.family.kind == "masked":
            return encoded
        start = encoded.positions[0]
        return replace(
            encoded,
            input_ids=encoded.input_ids[: start + 1],
            positions=(start,),
            targets=encoded.targets[:1],
        )

    def can_be_asked(self, prompt: Prompt) -> bool:
        """Whether `encode` accepts the prompt."""
        try:
            self.encode(prompt)
        except PromptError:
            return False
        return True

    # --- running the model as it is ---

    @torch.no_grad()
    def activations(self, prompts: Sequence[Prompt | Encoded], *, batch_tokens: int = 2048) -> Tensor:
        """Every neuron's activation at the first answer position: (n_prompts, n_layers, n_neurons)."""
        encoded = [self.encode(prompt) for prompt in prompts]
        result = torch.empty(len(encoded), self.n_layers, self.n_neurons)
        for batch in batches(encoded, batch_tokens):
            input_ids, positions, _, _ = self.tensors([encoded[index] for index in batch])
            with self.lock, recording(self.model, self.family, positions[:, :1]) as trace:
                self.model.base_model(input_ids, **self.forward_options())
            stacked = torch.stack([trace.activations[layer][:, 0] for layer in range(self.n_layers)], 1)
            result[batch] = stacked.float().cpu()
        return result

    @torch.no_grad()
    def token_activations(
        self,
        prompts: Sequence[Prompt | Encoded],
        neurons: Sequence[Sequence[Neuron]],
        *,
        batch_tokens: int = 512,
    ) -> list[Tensor]:
        """The activations of each prompt's own neurons at its every token, (n_chosen, n_tokens) each.

        A causal model reads teacher forcing, too, unless prompts are `unanswered`.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        result = [torch.empty(0)] * len(encoded)
        for batch in batches(encoded, batch_tokens):
            input_ids = self.tensors([encoded[index] for index in batch])[0]
            everywhere = torch.arange(input_ids.shape[1], device=self.device).expand(len(batch), -1)
            with self.lock, recording(self.model, self.family, everywhere) as trace:
                self.model.base_model(input_ids, **self.forward_options())
            for row, index in enumerate(batch):
                chosen = [trace.activations[each.layer][row, :, each.neuron] for each in neurons[index]]
                result[index] = torch.stack(chosen).float().cpu()
        return result

    def tensors(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows of equal length as tensors: input_ids (n_rows, n_tokens), positions, targets and
        valid (n_rows, n_positions). Rows with fewer answer tokens repeat their first, not valid."""
        width = max(len(row.targets) for row in rows)

        def padded(values: tuple[int, ...]) -> list[int]:
            return [*values, *([values[0]] * (width - len(values)))]

        def tensor(values: list) -> Tensor:
            return torch.tensor(values, device=self.device)

        valid = tensor([[j < len(row.targets) for j in range(width)] for row in rows])
        return (
            tensor([row.input_ids for row in rows]),
            tensor([padded(row.positions) for row in rows]),
            tensor([padded(row.targets) for row in rows]),
            valid,
        )

    def forward_options(self) -> dict:
        """Options of a forward pass: causal models keep no cache."""
        return {"use_cache": False} if self.family.kind == "causal" else {}


def batches(encoded: Sequence[Encoded], batch_tokens: int, *, by_prefix: bool = False) -> Iterator[list[int]]:
    """Indices of prompts of equal length, at most `batch_tokens` tokens a batch, in a fixed order.

    by_prefix: prompts whose answers begin at the same place, too; only tokens from there on count.
    """
    by_length: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, item in enumerate(encoded):
        by_length[len(item.input_ids), item.positions[0] if by_prefix else 0].append(index)
    for length, start in sorted(by_length):
        indices = by_length[length, start]
        # Each row has logits over the whole vocabulary, so the number of short rows is limited, too.
        size = max(1, batch_tokens // max(length - start, 8))
        for begin in range(0, len(indices), size):
            yield indices[begin : begin + size]
