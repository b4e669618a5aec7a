"""Tokenizers for models that have none: of whole words, or trained on the prompts themselves.

    whole_words("masked", 30_522)               # the benchmark's own sentences, word by word
    word_pieces(prompts, 30_522)                # BERT's kind; answers stay whole words
    byte_pairs(prompts, 50_257)                 # GPT-2's kind; `begin` is written first, as Llama's do

A tokenizer trained on the very prompts that it reads makes them shorter than a public one would, because
their rare names become words of its vocabulary. Training is deterministic and takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from atlas.neuron import OBJECT_SLOT, Prompt
from build.bench import prompts as sentences

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END, BEGIN = "<|endoftext|>", "<|begin_of_text|>"


def whole_words(kind: str, size: int) -> PreTrainedTokenizerFast:
    """Knows the words of `build.bench.prompts`, one token each, in a vocabulary of `size`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens = [*SPECIALS, *sentences.words()]
    tokens += [f"[unused{index}]" for index in range(len(tokens), size)]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _masked(backend) if kind == "masked" else _fast(backend, pad_token="[PAD]", unk_token="[UNK]")


def trained(model_type: str, prompts: Sequence[Prompt], size: int) -> PreTrainedTokenizerFast:
    """The kind of tokenizer that models of this type have, trained on the prompts with their answers."""
    if model_type == "bert":
        return word_pieces(prompts, size)
    return byte_pairs(prompts, size, begin=BEGIN if model_type == "llama" else None)


def word_pieces(prompts: Sequence[Prompt], size: int) -> PreTrainedTokenizerFast:
    """WordPiece, lower case. Every answer of one word is one token: PARAREL's objects are those of BERT."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def empty(vocabulary: dict[str, int] | None = None) -> Tokenizer:
        backend = Tokenizer(models.WordPiece(vocabulary or {}, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        return backend

    draft = empty()
    # Left to itself the trainer numbers letters within words in the order of a hash table, which differs from
    # process to process, and with it which of two equally frequent pairs is joined first.
    letters = draft.normalizer.normalize_str(" ".join(sorted(set("".join(_texts(prompts))))))
    within = [f"##{letter}" for letter in sorted(set(letters) - {" "})]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIALS, *within], show_progress=False
    )
    draft.train_from_iterator(_texts(prompts), trainer)
    found = draft.get_vocab()
    learned = sorted(found, key=found.__getitem__)
    single = [token for token in learned if len(token.removeprefix("##")) == 1]
    answers = sorted({draft.normalizer.normalize_str(prompt.answer.strip()) for prompt in prompts})
    tokens = list(dict.fromkeys((*SPECIALS, *single, *answers, *learned)))[:size]
    return _masked(empty({token: index for index, token in enumerate(tokens)}))


def byte_pairs(prompts: Sequence[Prompt], size: int, *, begin: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level pairs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END] if begin is None else [END, begin],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(prompts), trainer)
    if begin is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
        )
    return _fast(backend, eos_token=END, bos_token=begin or END)


def _texts(prompts: Iterable[Prompt]) -> Iterable[str]:
    return (prompt.text.replace(OBJECT_SLOT, prompt.answer) for prompt in prompts)


def _masked(backend: Tokenizer) -> PreTrainedTokenizerFast:
    from tokenizers import processors

    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return _fast(backend, cls_token="[CLS]", sep_token="[SEP]", **names)


def _fast(backend: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
