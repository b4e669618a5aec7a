"""Tiny models of every supported family, made from configs: real classes, real fast tokenizers, no download.

    folder = save_tiny("tiny_llama", tmp_path)      # config.json, model.safetensors, tokenizer.json

Three layers, 32 dimensions, random weights from a fixed seed. The weights are larger than a model's usual
initialisation, so that an answer's probability really depends on the activations: with the usual ones every
path would be a straight line, and a wrong quadrature would pass.

The tokenizers know the words of `SENTENCES`: "paris" is one token, "new york" two, and for BERT "azerbaijan"
is several WordPieces. The Llama and Mistral ones write a first token of their own, as theirs do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SENTENCES = (
    "the capital of france is paris .",
    "the capital of italy is rome .",
    "the capital of japan is tokyo .",
    "the largest city of america is new york .",
    "the largest city of brazil is sao paulo .",
    "the official language of austria is german .",
    "the official language of peru is spanish .",
    "the old town of rome lies in italy .",
    "the river that runs through paris is the seine .",
    "people in tokyo speak japanese , people in paris speak french .",
    "the iphone is made by apple .",
    "the capital of new zealand is wellington , not sydney .",
    "san francisco and new york are cities in america .",
)
"""What the tokenizers were made from; `ANSWERS` and the tests' prompts use these words."""

SINGLE_TOKEN_ANSWERS = ("paris", "rome", "tokyo", "german", "apple")
SEVERAL_TOKEN_ANSWERS = ("new york", "sao paulo", "san francisco")

N_LAYERS = 3
D_MODEL = 32
N_NEURONS = 72  # not four times the width: sizes must be read from the modules
SEED = 20220308


def word_piece_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's kind: lower case, whole words of `SENTENCES`, every other word from single letters."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *("##" + c for c in letters)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def byte_pair_tokenizer(*, end: str, begin: str | None = None) -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte-level pairs learned from `SENTENCES`; `begin` is written first when given."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [end] if begin is None else [end, begin]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=1,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A",
            pair=f"{begin} $A {begin} $B",
            special_tokens=[(begin, tokenizer.token_to_id(begin))],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=begin or end)


def randomize(model: PreTrainedModel, *, std: float = 0.2, seed: int = SEED) -> None:
    """Writes the same numbers each time: matrices N(0, std), norms around 1, biases around 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(std * noise)
            else:
                parameter.add_(0.1 * noise)  # norms are made as ones, biases as zeros


def _bert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = word_piece_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        intermediate_size=N_NEURONS,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertForMaskedLM(config), tokenizer


def _gpt2() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = byte_pair_tokenizer(end="<|endoftext|>")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=4,
        n_inner=N_NEURONS,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config), tokenizer


def _llama_like(
    config_class: type[PretrainedConfig],
    model_class: type[PreTrainedModel],
    *,
    begin: str | None,
    end: str,
    **options: object,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Grouped-query attention: 4 heads share 2 keys and values."""
    tokenizer = byte_pair_tokenizer(begin=begin, end=end)
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=N_NEURONS,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        **options,
    )
    return model_class(config), tokenizer


BUILDERS: dict[str, Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]] = {
    "tiny_bert": _bert,
    "tiny_gpt2": _gpt2,
    "tiny_llama": lambda: _llama_like(
        LlamaConfig, LlamaForCausalLM, begin="<s>", end="</s>", tie_word_embeddings=False
    ),
    "tiny_qwen2": lambda: _llama_like(
        Qwen2Config, Qwen2ForCausalLM, begin=None, end="<|endoftext|>", tie_word_embeddings=True
    ),
    "tiny_qwen3": lambda: _llama_like(
        Qwen3Config,
        Qwen3ForCausalLM,
        begin=None,
        end="<|endoftext|>",
        tie_word_embeddings=True,
        head_dim=D_MODEL // 2,  # Qwen3's heads are wider than width ÷ heads
    ),
    "tiny_mistral": lambda: _llama_like(
        MistralConfig,
        MistralForCausalLM,
        begin="<s>",
        end="</s>",
        tie_word_embeddings=False,
        sliding_window=64,
    ),
}
"""Name → a function that makes the model and its tokenizer."""


def tiny_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model `name` of `BUILDERS` with its random weights, in evaluation mode, and its tokenizer."""
    model, tokenizer = BUILDERS[name]()
    randomize(model)
    return model.float().eval(), tokenizer


def save_tiny(name: str, parent: Path) -> Path:
    """Writes the model `name` and its tokenizer as transformers does; returns `parent / name`."""
    folder = parent / name
    model, tokenizer = tiny_model(name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_broken_bert(parent: Path) -> Path:
    """A BERT whose second down-projection holds a NaN: every score would be none."""
    folder = parent / "broken_bert"
    model, tokenizer = tiny_model("tiny_bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = math.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
