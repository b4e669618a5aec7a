"""Tiny models of every supported type, made from configs: real classes, real fast tokenizers, no download.

    folder = save_tiny("tiny_llama", tmp_path)      # config.json, model.safetensors, tokenizer.json

Three layers, 32 dimensions, random weights from a fixed seed. The weights are larger than a model's usual
initialisation, so that an answer's probability really depends on the activations: with the usual ones every
path would be a straight line, and a wrong quadrature would pass.

The tokenizers know the words of `SENTENCES`: "paris" is one token, "new york" two, and for BERT "azerbaijan"
is several WordPieces. The Llama and Mistral ones write a first token of their own, as theirs do; those of
ALBERT, XLM-R and Gemma mark spaces as SentencePiece does. Windows of sliding attention are shorter than the
longest of `SENTENCES`, so that a mask that is forgotten shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertJapaneseTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
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


def byte_pair_tokenizer(
    *, end: str, begin: str | None = None, mask: str | None = None, metaspace: bool = False
) -> PreTrainedTokenizerFast:
    """Pairs learned from `SENTENCES`: of bytes, GPT-2's kind, or of letters with a mark for a space.

    `begin` is written first when given; with `mask`, `end` last, as RoBERTa's kin do, whose mask swallows the
    space before it.
    """
    unknown = ["<unk>"] if metaspace else []  # byte pairs know every text
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = sorted("▁abcdefghijklmnopqrstuvwxyz0123456789.,'-")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=1,
        special_tokens=[end, *([] if begin is None else [begin]), *unknown],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if begin is not None:
        last = "" if mask is None else f" {end}"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A{last}",
            pair=f"{begin} $A{last} {begin} $B{last}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        bos_token=begin or end,
        unk_token=unknown[0] if unknown else None,
        clean_up_tokenization_spaces=False,
    )
    if mask is not None:
        mask_token = AddedToken(mask, lstrip=True, normalized=False, special=True)
        fast.add_special_tokens({"mask_token": mask_token, "pad_token": end})
    return fast


OTHER_SCRIPTS = ("法 国 的 首 都 是 巴 黎 。", "l ' italie d ' italie « rome » ( rome ) \" rome \" ? !")
"""What the tokenizers of `TOKENIZERS` also know; byte pairs know every text."""


def trained_tokenizer(
    kind: str,
    *,
    space: str = "",
    single: str = "$A",
    mask: AddedToken | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer of one shape.

    kind: "bytes" (GPT-2), "pairs" (SentencePiece's byte pairs) or "unigram" (XLM-R). space: what precedes
    the first word: "prefix" puts a space there, "first", "always" and "never" are Metaspace's schemes,
    "normaliser" is Llama's, Mistral's and Phi-3's Prepend and Replace. single: the post-processor's template.
    """
    specials = ["<unk>", "<s>", "</s>", "[CLS]", "[SEP]"]
    trainer_options = {"special_tokens": specials, "show_progress": False}
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", **trainer_options)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=None if kind == "bytes" else "<unk>"))
        alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, **trainer_options)
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space == "prefix")
        tokenizer.decoder = decoders.ByteLevel()
    else:
        scheme = "first" if space == "normaliser" else space
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.train_from_iterator((*SENTENCES, *OTHER_SCRIPTS), trainer)
    if space == "normaliser":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in specials]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if mask is not None:
        fast.add_special_tokens({"mask_token": mask})
    return fast


def python_tokenizer(folder: Path) -> BertJapaneseTokenizer:
    """A tokenizer written in Python, which does not say which characters a token writes."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8")
    return BertJapaneseTokenizer(
        vocabulary, do_lower_case=True, word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    )


_PLAIN_MASK = AddedToken("<mask>", normalized=False, special=True)
_MASK = AddedToken("<mask>", lstrip=True, normalized=False, special=True)

CAUSAL_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "GPT-2": partial(trained_tokenizer, "bytes"),
    "GPT-2 with add_prefix_space": partial(trained_tokenizer, "bytes", space="prefix"),
    "GPT-2 with BERT's special tokens": partial(trained_tokenizer, "bytes", single="[CLS] $A [SEP]"),
    "GPT-2 that appends its end of text": partial(trained_tokenizer, "bytes", single="$A </s>"),
    "Llama with Prepend and Replace": partial(
        trained_tokenizer, "pairs", space="normaliser", single="<s> $A"
    ),
    "Llama that appends </s>": partial(trained_tokenizer, "pairs", space="normaliser", single="$A </s>"),
    "Metaspace before the first word": partial(trained_tokenizer, "pairs", space="first", single="<s> $A"),
    "Metaspace before every part": partial(trained_tokenizer, "pairs", space="always"),
    "Metaspace between words only": partial(trained_tokenizer, "pairs", space="never"),
    "unigram": partial(trained_tokenizer, "unigram", space="always"),
}
MASKED_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "BERT": word_piece_tokenizer,
    "RoBERTa": partial(trained_tokenizer, "bytes", single="<s> $A </s>", mask=_MASK),
    "RoBERTa whose mask keeps the space": partial(
        trained_tokenizer, "bytes", single="<s> $A </s>", mask=_PLAIN_MASK
    ),
    "RoBERTa with add_prefix_space": partial(
        trained_tokenizer, "bytes", space="prefix", single="<s> $A </s>", mask=_MASK
    ),
    "XLM-R": partial(trained_tokenizer, "unigram", space="always", single="<s> $A </s>", mask=_MASK),
    "ALBERT": partial(trained_tokenizer, "pairs", space="first", single="[CLS] $A [SEP]", mask=_MASK),
    "Prepend and Replace": partial(
        trained_tokenizer, "pairs", space="normaliser", single="<s> $A </s>", mask=_PLAIN_MASK
    ),
}
"""Every shape of tokenizer that the two kinds of models come with, by what is special about it."""


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


@dataclass(frozen=True)
class Tiny:
    """A model type with the tokenizer of its kind, and the names that its config has for the sizes."""

    model_type: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    options: Mapping[str, object] = field(default_factory=dict)
    masked: bool = False

    def make(self) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        tokenizer = self.tokenizer()
        specials = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
        specials["pad_token_id"] = tokenizer.pad_token_id if self.masked else None
        options = {**specials, **self.options}
        if "text_config" in options:
            options["text_config"] = {**options["text_config"], **specials, "vocab_size": len(tokenizer)}
        config = AutoConfig.for_model(self.model_type, vocab_size=len(tokenizer), **options)
        auto = AutoModelForMaskedLM if self.masked else AutoModelForCausalLM
        return auto.from_config(config), tokenizer


SIZES = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": N_NEURONS,
    "max_position_embeddings": 64,
}
GPT2_SIZES = {"n_positions": 64, "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_inner": N_NEURONS}
GROUPED = {**SIZES, "num_key_value_heads": 2}  # 4 heads share 2 keys and values
WINDOW = 6
GEMMA_SIZES = {
    **GROUPED,
    "head_dim": D_MODEL // 4,
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def _bytes(*, end: str = "<|endoftext|>", begin: str | None = None) -> Callable[[], PreTrainedTokenizerFast]:
    return lambda: byte_pair_tokenizer(end=end, begin=begin)


def _spaces(*, end: str, begin: str, mask: str | None = None) -> Callable[[], PreTrainedTokenizerFast]:
    return lambda: byte_pair_tokenizer(end=end, begin=begin, mask=mask, metaspace=True)


def _roberta_bytes() -> PreTrainedTokenizerFast:
    return byte_pair_tokenizer(end="</s>", begin="<s>", mask="<mask>")


def _modernbert_bytes() -> PreTrainedTokenizerFast:
    return byte_pair_tokenizer(end="[SEP]", begin="[CLS]", mask="[MASK]")


BUILDERS: dict[str, Tiny] = {
    "tiny_bert": Tiny("bert", word_piece_tokenizer, SIZES, masked=True),
    "tiny_gpt2": Tiny("gpt2", _bytes(), GPT2_SIZES),
    "tiny_llama": Tiny("llama", _bytes(begin="<s>", end="</s>"), {**GROUPED, "tie_word_embeddings": False}),
    "tiny_qwen2": Tiny("qwen2", _bytes(), {**GROUPED, "tie_word_embeddings": True}),
    "tiny_qwen3": Tiny(
        "qwen3",
        _bytes(),
        # Qwen3's heads are wider than width ÷ heads
        {**GROUPED, "tie_word_embeddings": True, "head_dim": D_MODEL // 2},
    ),
    "tiny_mistral": Tiny(
        "mistral",
        _bytes(begin="<s>", end="</s>"),
        {**GROUPED, "tie_word_embeddings": False, "sliding_window": WINDOW},
    ),
    "tiny_roberta": Tiny("roberta", _roberta_bytes, SIZES, masked=True),
    "tiny_xlm_roberta": Tiny(
        "xlm-roberta", _spaces(end="</s>", begin="<s>", mask="<mask>"), SIZES, masked=True
    ),
    "tiny_camembert": Tiny("camembert", _spaces(end="</s>", begin="<s>", mask="<mask>"), SIZES, masked=True),
    "tiny_distilbert": Tiny(
        "distilbert",
        word_piece_tokenizer,
        {
            "dim": D_MODEL,
            "n_layers": N_LAYERS,
            "n_heads": 4,
            "hidden_dim": N_NEURONS,
            "max_position_embeddings": 64,
        },
        masked=True,
    ),
    "tiny_albert": Tiny(
        "albert",
        _spaces(end="[SEP]", begin="[CLS]", mask="[MASK]"),
        {**SIZES, "embedding_size": D_MODEL // 2},
        masked=True,
    ),
    "tiny_electra": Tiny("electra", word_piece_tokenizer, {**SIZES, "embedding_size": 16}, masked=True),
    "tiny_modernbert": Tiny(
        "modernbert",
        _modernbert_bytes,
        {
            **SIZES,
            "local_attention": WINDOW,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "cls_token_id": 0,
            "sep_token_id": 0,
        },
        masked=True,
    ),
    "tiny_gpt_neo": Tiny(
        "gpt_neo",
        _bytes(),
        {
            "hidden_size": D_MODEL,
            "num_layers": N_LAYERS,
            "attention_types": [[["global", "local", "local"], 1]],
            "num_heads": 4,
            "intermediate_size": N_NEURONS,
            "window_size": WINDOW,
            "max_position_embeddings": 64,
        },
    ),
    "tiny_gpt_neox": Tiny("gpt_neox", _bytes(), SIZES),
    "tiny_gptj": Tiny("gptj", _bytes(), {**GPT2_SIZES, "rotary_dim": 4}),
    "tiny_opt": Tiny(
        "opt",
        _bytes(begin="</s>", end="<|endoftext|>"),
        {**SIZES, "ffn_dim": N_NEURONS, "word_embed_proj_dim": D_MODEL, "pad_token_id": 1},
    ),
    "tiny_opt_350m": Tiny(
        "opt",
        _bytes(begin="</s>", end="<|endoftext|>"),
        {
            **SIZES,
            "ffn_dim": N_NEURONS,
            "word_embed_proj_dim": 20,
            "do_layer_norm_before": False,
            "pad_token_id": 1,
        },
    ),
    "tiny_bloom": Tiny("bloom", _bytes(), {"hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": 4}),
    "tiny_smollm3": Tiny(
        "smollm3",
        _bytes(),
        {**GROUPED, "no_rope_layers": [1, 1, 0], "tie_word_embeddings": True},
    ),
    "tiny_stablelm": Tiny("stablelm", _bytes(), GROUPED),
    "tiny_starcoder2": Tiny("starcoder2", _bytes(), {**GROUPED, "sliding_window": WINDOW}),
    "tiny_olmo": Tiny("olmo", _bytes(), GROUPED),
    "tiny_olmo2": Tiny("olmo2", _bytes(), GROUPED),
    "tiny_eurobert": Tiny("eurobert", _modernbert_bytes, GROUPED, masked=True),
    "tiny_phi": Tiny("phi", _bytes(), SIZES),
    "tiny_phi3": Tiny("phi3", _bytes(), {**GROUPED, "tie_word_embeddings": False}),
    "tiny_gemma": Tiny("gemma", _spaces(begin="<bos>", end="<eos>"), {**GROUPED, "head_dim": 8}),
    "tiny_gemma2": Tiny("gemma2", _spaces(begin="<bos>", end="<eos>"), GEMMA_SIZES),
    "tiny_gemma3_text": Tiny("gemma3_text", _spaces(begin="<bos>", end="<eos>"), GEMMA_SIZES),
    "tiny_gemma3": Tiny(
        "gemma3",
        _spaces(begin="<bos>", end="<eos>"),
        {
            "text_config": {"model_type": "gemma3_text", **GEMMA_SIZES},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
        },
    ),
}
"""Name → how its model and tokenizer are made."""


def tiny_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model `name` of `BUILDERS` with its random weights, in evaluation mode, and its tokenizer."""
    model, tokenizer = BUILDERS[name].make()
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
