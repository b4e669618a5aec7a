"""The model that is timed: a public shape with random weights, which needs no download, or a loaded one.

    subject = named_subject("bert-base")        # a shape, or a model's name or folder
    subject = chosen_subject(options)           # --shape or --model, --device, --dtype, --threads
    trained_tokenizer("bert", prompts, 30_522)

A shape reads with a tokenizer of whole words (`build.bench.prompts`), or with one trained on the prompts
themselves, whose prompts are shorter than a public tokenizer's because rare names become words of its
vocabulary. Training is deterministic and takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights

from atlas.models.device import device_of
from atlas.models.families import family_of
from atlas.neuron import OBJECT_SLOT, Prompt
from atlas.surgery.subject import Subject, load_subject, subject_of
from build.bench import prompts as sentences
from build.bench.options import BenchOptions
from build.bench.shapes import SHAPES
from build.plan import DEFAULT_DTYPES

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END, BEGIN = "<|endoftext|>", "<|begin_of_text|>"


def chosen_subject(options: BenchOptions, *, layers: int | None = None) -> Subject:
    """What the options ask for; sets torch's threads."""
    torch.set_num_threads(options.threads)
    return named_subject(options.subject, device=options.device, dtype=options.dtype, layers=layers)


def named_subject(
    name: str, *, device: str = "cpu", dtype: str = "float32", layers: int | None = None
) -> Subject:
    """The shape of that name, with another number of layers if asked for, or else the model.

    dtype: `auto` for what a build uses on the device.
    """
    target = device_of(device)
    dtype = DEFAULT_DTYPES.get(target.type, "float32") if dtype == "auto" else dtype
    if name not in SHAPES:
        return load_subject(name, device=str(target), dtype=dtype)
    config = shape_config(name, layers=layers)
    family = family_of(config.to_dict())
    torch.manual_seed(sentences.PROMPT_SEED)
    model = _random_model(config, masked=family.kind == "masked")
    tokenizer = whole_words(family.kind, config.vocab_size)
    return subject_of(model, tokenizer, name=f"{name} shape, random weights", device=target, dtype=dtype)


def shape_config(shape: str, *, layers: int | None = None) -> PretrainedConfig:
    """transformers' config of that shape."""
    model_type, sizes = SHAPES[shape]
    config = AutoConfig.for_model(model_type, **sizes)
    if layers is not None:
        config.num_hidden_layers = layers  # GPT-2's config maps it to n_layer
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    return config


def _random_model(config: PretrainedConfig, *, masked: bool) -> PreTrainedModel:
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    if config.model_type != "llama":
        return auto.from_config(config, dtype=torch.float32)
    # transformers takes half a minute to initialise a billion parameters; this is the same distribution.
    with no_init_weights(), torch.no_grad():
        model = auto.from_config(config, dtype=torch.float32)
        model.tie_weights()
        for parameter in model.parameters():
            # A Llama has matrices and the scales of its norms, and no biases.
            parameter.fill_(1) if parameter.ndim == 1 else parameter.normal_(0, config.initializer_range)
    return model


# --- tokenizers ---


def whole_words(kind: str, size: int) -> PreTrainedTokenizerFast:
    """Knows the words of `build.bench.prompts`, one token each, in a vocabulary of `size`."""
    tokens = [*SPECIALS, *sentences.words()]
    tokens += [f"[unused{index}]" for index in range(len(tokens), size)]
    backend = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "causal":
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    ends = [(token, SPECIALS.index(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return _masked(backend)


def trained_tokenizer(model_type: str, prompts: Sequence[Prompt], size: int) -> PreTrainedTokenizerFast:
    """The kind of tokenizer that models of this type have, trained on the prompts with their answers."""
    texts = [prompt.text.replace(OBJECT_SLOT, prompt.answer) for prompt in prompts]
    if model_type == "bert":
        return _word_pieces(texts, {prompt.answer.strip() for prompt in prompts}, size)
    trained = ByteLevelBPETokenizer()
    specials = [END, BEGIN] if model_type == "llama" else [END]
    trained.train_from_iterator(texts, size, 0, show_progress=False, special_tokens=specials)
    # A Llama's prompts begin with a token of their own.
    trained.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A" if model_type == "llama" else "$A",
        special_tokens=[(token, trained.token_to_id(token)) for token in specials],
    )
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token=END, bos_token=specials[-1])


def _word_pieces(texts: Sequence[str], answers: set[str], size: int) -> PreTrainedTokenizerFast:
    """WordPiece, lower case. Every answer of one word is one token: PARAREL's objects are those of BERT."""
    draft = BertWordPieceTokenizer()
    # Left to itself the trainer numbers letters within words in the order of a hash table, which differs from
    # process to process, and with it which of two equally frequent pairs is joined first.
    letters = set(draft.normalizer.normalize_str(" ".join(sorted(set("".join(texts)))))) - {" "}
    specials = [*SPECIALS, *(f"##{letter}" for letter in sorted(letters))]
    draft.train_from_iterator(texts, size, 0, special_tokens=specials, show_progress=False)
    found = draft.get_vocab()
    learned = sorted(found, key=found.__getitem__)
    single = [token for token in learned if len(token.removeprefix("##")) == 1]
    whole = sorted(map(draft.normalizer.normalize_str, answers))
    tokens = list(dict.fromkeys((*SPECIALS, *single, *whole, *learned)))[:size]
    return _masked(BertWordPieceTokenizer({token: i for i, token in enumerate(tokens)})._tokenizer)


def _masked(backend: Tokenizer) -> PreTrainedTokenizerFast:
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in names.items()}
    )
