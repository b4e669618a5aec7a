"""The supported architectures: the modules of each that this project reads and changes.

    family = family_of({"model_type": "gpt2"}) # what config.json says
    family.down(model, 3)                      # the down-projection module of layer 3
    family.value_vectors(model, 3)             # (n_neurons, d_model), a view of its weight

A family is data: names of modules below the model, and of numbers in its config; docs/models.md shows how to
add one. The neuron is the *input of the feed-forward down-projection* in all of them, because it is the only
definition for which ``activations @ value_vectors (+ bias)`` is the layer's write in every architecture. A
layer's output follows from its write in one of three ways:

    sum            residual + write                     most causal models, parallel or not; ModernBERT
    norm after     norm(residual + write)               BERT and its kin, OPT-350m
    norm before    residual + norm(write)               Gemma 2 and 3, OLMo 2

Reading the table needs no torch, so a build is planned before any model is loaded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from atlas.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """Module names of one architecture; sizes are read from the modules, never assumed.

    Names below a layer: `down_projection`; `norm_after` and `norm_before`, the norm of the sum or of the
    write; `residual`, the module whose *input* the write is added to (None: it is the layer's output minus
    its write, in families that only add); `attention`, where its keys and values can be computed separately
    (masked models: then the last layer computes the answer position only).

    Names below the model: `layers`, or a function that returns the modules by depth, which may repeat;
    `final`, the modules between the last layer and the head, where present; `head`, in order; `unembedding`,
    whose weight has a row a token; `factor`, a linear module from d_model to narrower rows.

    Numbers in the config: `soft_cap`, the bound of the logits; `activation_config` its activation function's
    name, `activation_function` where the config does not say; `counts_from_padding`, positions begin after
    the padding token's id; `one_length`, positions follow from the number of keys, so the rows of a batch
    need one length; `gain_offset`, the number that a final norm adds to its weight.
    """

    name: str
    kind: Literal["masked", "causal"]
    layers: str | Callable[[nn.Module], Sequence[nn.Module]]
    down_projection: str
    head: tuple[str, ...]
    unembedding: str
    final: tuple[str, ...] = ()
    factor: str | None = None
    residual: str | None = None
    norm_after: str | None = None
    norm_before: str | None = None
    attention: str | None = None
    activation_config: str = "hidden_act"
    activation_function: str | None = None
    soft_cap: str | None = None
    gain_offset: float = 0.0
    counts_from_padding: bool = False
    one_length: bool = False

    # --- modules ---

    def layer_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        """The layers by depth; a module may repeat."""
        if callable(self.layers):
            return self.layers(model)
        return cast("Sequence[nn.Module]", model.get_submodule(self.layers))

    def down(self, model: nn.Module, layer: int) -> nn.Module:
        """A layer's down-projection, whose inputs are the neurons."""
        return self.layer_modules(model)[layer].get_submodule(self.down_projection)

    def value_vectors(self, model: nn.Module, layer: int) -> Tensor:
        """The neurons' value vectors, (n_neurons, d_model): the write of one unit of activation."""
        return neurons_first(self.down(model, layer))

    def final_modules(self, model: nn.Module) -> list[nn.Module]:
        """The modules between the last layer and the head."""
        found = [operator.attrgetter(name)(model) for name in self.final]
        return [module for module in found if module is not None]

    # --- from a layer's write to the logits ---

    @property
    def adds(self) -> bool:
        """Whether a layer's output is the plain sum of its residual and its write."""
        return self.norm_after is None and self.norm_before is None

    def tail(self, model: nn.Module, layer: int, residual: Tensor, write: Tensor) -> Tensor:
        """The layer's output, (…, d_model), from its residual and its down-projection's write."""
        module = self.layer_modules(model)[layer]
        if self.norm_before is not None:
            write = module.get_submodule(self.norm_before)(write)
        total = residual + write
        return total if self.norm_after is None else module.get_submodule(self.norm_after)(total)

    def say(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """The logits, (…, n_tokens) in float32, of what `base_model` returns, (…, d)."""
        for name in self.head:
            hidden = model.get_submodule(name)(hidden)
        logits = hidden.float()
        cap = self.capped_at(model)
        return logits if cap is None else cap * (logits / cap).tanh()

    def logits(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """The logits, (…, n_tokens) in float32, of the last layer's output, (…, d_model)."""
        for module in self.final_modules(model):
            hidden = module(hidden)
        return self.say(model, hidden)

    def capped_at(self, model: Any) -> float | None:
        """The bound of the logits, if any."""
        return None if self.soft_cap is None else getattr(model.config.get_text_config(), self.soft_cap)

    def token_embeddings(self, model: nn.Module) -> Tensor:
        """The unembedding's rows, (n_tokens, d_model): the direction that promotes each token.

        Where the unembedding is narrower than the layers, the head's linear factor maps its rows back to
        d_model; a nonlinearity between the two is left out.
        """
        rows: Tensor = operator.attrgetter(f"{self.unembedding}.weight")(model)
        factor = None if self.factor is None else operator.attrgetter(self.factor)(model)
        return rows if factor is None else rows @ factor.weight

    # --- numbers of the config ---

    def activation_of(self, config: Any) -> str:
        """The name of the feed-forward layers' activation function."""
        return self.activation_function or str(getattr(config.get_text_config(), self.activation_config))

    def longest(self, config: Any) -> int:
        """The longest prompt in tokens that the positions reach."""
        limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        if not limit:
            return 1 << 30
        return limit - config.pad_token_id - 1 if self.counts_from_padding else limit


def neurons_first(down: nn.Module, weight: Tensor | None = None) -> Tensor:
    """A down-projection's weight, (n_neurons, d_model), a view; or another tensor that could stand there."""
    if weight is None:
        weight = cast("Tensor", down.weight)
    # nn.Linear keeps (out, in) and says so; GPT-2's Conv1D keeps (in, out).
    return weight.T if hasattr(down, "in_features") else weight


# --- the table ---


def _albert_layers(model: Any) -> list[nn.Module]:
    """A group's layers serve several depths, with the same weights."""
    encoder = model.albert.encoder
    n_depths, n_groups = encoder.config.num_hidden_layers, encoder.config.num_hidden_groups
    groups = (encoder.albert_layer_groups[int(i / (n_depths / n_groups))] for i in range(n_depths))
    return [layer for group in groups for layer in group.albert_layers]


BERT = Family(
    name="bert",
    kind="masked",
    layers="bert.encoder.layer",
    attention="attention.self",
    down_projection="output.dense",
    residual="intermediate",
    norm_after="output.LayerNorm",
    head=("cls.predictions",),
    unembedding="cls.predictions.decoder",
)
ROBERTA = replace(
    BERT,
    name="roberta",
    layers="roberta.encoder.layer",
    head=("lm_head",),
    unembedding="lm_head.decoder",
    counts_from_padding=True,
)
ELECTRA = replace(
    BERT,
    name="electra",
    layers="electra.encoder.layer",
    head=("generator_predictions", "generator_lm_head"),
    unembedding="generator_lm_head",
    factor="generator_predictions.dense",
)
DISTILBERT = Family(
    name="distilbert",
    kind="masked",
    layers="distilbert.transformer.layer",
    down_projection="ffn.lin2",
    residual="ffn",
    norm_after="output_layer_norm",
    head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    unembedding="vocab_projector",
    activation_config="activation",
)
ALBERT = Family(
    name="albert",
    kind="masked",
    layers=_albert_layers,
    down_projection="ffn_output",
    residual="ffn",
    norm_after="full_layer_layer_norm",
    head=("predictions",),
    unembedding="predictions.decoder",
    factor="predictions.dense",
)
MODERNBERT = Family(
    name="modernbert",
    kind="masked",
    layers="model.layers",
    down_projection="mlp.Wo",
    final=("model.final_norm",),
    head=("head", "decoder"),
    unembedding="decoder",
    activation_config="hidden_activation",
)
GPT2 = Family(
    name="gpt2",
    kind="causal",
    layers="transformer.h",
    down_projection="mlp.c_proj",
    final=("transformer.ln_f",),
    head=("lm_head",),
    unembedding="lm_head",
    activation_config="activation_function",
)
# Its local attention derives its window from the number of keys.
GPT_NEO = replace(GPT2, name="gpt_neo", one_length=True)
GPTJ = replace(GPT2, name="gptj", down_projection="mlp.fc_out")
GPT_NEOX = Family(
    name="gpt_neox",
    kind="causal",
    layers="gpt_neox.layers",
    down_projection="mlp.dense_4h_to_h",
    final=("gpt_neox.final_layer_norm",),
    head=("lm_head",),
    unembedding="lm_head",
)
BLOOM = Family(
    name="bloom",
    kind="causal",
    layers="transformer.h",
    down_projection="mlp.dense_4h_to_h",
    final=("transformer.ln_f",),
    head=("lm_head",),
    unembedding="lm_head",
    activation_function="gelu_tanh",
    one_length=True,  # ALiBi counts keys
)
OPT = Family(
    name="opt",
    kind="causal",
    layers="model.decoder.layers",
    down_projection="fc2",
    final=("model.decoder.final_layer_norm", "model.decoder.project_out"),
    factor="model.decoder.project_out",
    head=("lm_head",),
    unembedding="lm_head",
    activation_config="activation_function",
)
OPT_NORM_AFTER = replace(OPT, residual="fc1", norm_after="final_layer_norm")  # opt-350m
LLAMA = Family(
    name="llama",
    kind="causal",
    layers="model.layers",
    down_projection="mlp.down_proj",
    final=("model.norm",),
    head=("lm_head",),
    unembedding="lm_head",
)
STARCODER2 = replace(LLAMA, name="starcoder2", down_projection="mlp.c_proj")
OLMO2 = replace(LLAMA, name="olmo2", residual="mlp", norm_before="post_feedforward_layernorm")
EUROBERT = replace(LLAMA, name="eurobert", kind="masked")
PHI = replace(LLAMA, name="phi", down_projection="mlp.fc2", final=("model.final_layernorm",))
GEMMA = replace(LLAMA, name="gemma", gain_offset=1.0)
GEMMA2 = replace(
    GEMMA,
    name="gemma2",
    residual="pre_feedforward_layernorm",
    norm_before="post_feedforward_layernorm",
    activation_config="hidden_activation",
    soft_cap="final_logit_softcapping",
)
GEMMA3_IMAGES = replace(
    GEMMA2, name="gemma3", layers="model.language_model.layers", final=("model.language_model.norm",)
)

FAMILIES: Mapping[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
    "albert": ALBERT,
    "electra": ELECTRA,
    "modernbert": MODERNBERT,
    "eurobert": EUROBERT,
    "gpt2": GPT2,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "gptj": GPTJ,
    "opt": OPT,
    "bloom": BLOOM,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "stablelm": LLAMA,
    "starcoder2": STARCODER2,
    "olmo": LLAMA,
    "olmo2": OLMO2,
    "phi": PHI,
    "phi3": LLAMA,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3_IMAGES,
    "gemma3_text": GEMMA2,
}

# Types whose blocks differ by a switch in the config: its name, its default, the value of the other row.
VARIANTS: Mapping[str, tuple[str, Any, Any, Family]] = {
    "opt": ("do_layer_norm_before", True, False, OPT_NORM_AFTER),
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a model by its config.json; `ModelError` for a `model_type` that is not in the table."""
    model_type = config.get("model_type", "")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(
            f"Models of type '{model_type or 'unknown'}' are not supported. "
            f"Choose a model of one of these types: {', '.join(FAMILIES)}."
        )
    if model_type in VARIANTS:
        switch, default, value, family = VARIANTS[model_type]
        if config.get(switch, default) == value:
            return family
    return FAMILIES[model_type]


# --- sizes, before a model is loaded ---

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_NEURONS = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim")
_WIDTH = ("hidden_size", "n_embd")


def layer_count_of(config: Mapping[str, Any]) -> int | None:
    """The number of layers, as far as a config.json tells."""
    config = config.get("text_config") or config
    n_layers = _first(config, _LAYERS)
    return n_layers and n_layers * config.get("inner_group_num", 1)  # ALBERT's


def sizes_of(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Numbers of layers and of neurons a layer, as far as a config.json tells."""
    text = config.get("text_config") or config
    width = _first(text, _WIDTH)
    return layer_count_of(config), _first(text, _NEURONS) or (width and 4 * width)


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if config.get(name)), None)
