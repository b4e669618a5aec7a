"""Where each architecture keeps the parts that this project reads and changes.

    family = family_of(config)                 # by config.model_type
    family.down(model, 3)                      # the down-projection module of layer 3
    family.value_vectors(model, 3)             # (n_neurons, d_model), a view of its weight

A family is data: names of modules below the model. The neuron is the *input of the feed-forward
down-projection* in all of them, because it is the only definition for which
``activations @ value_vectors (+ bias)`` is what the layer writes, whatever the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from atlas.errors import ModelError


@dataclass(frozen=True)
class Family:
    """Module names of one architecture; sizes are read from the modules, never assumed.

    `residual` is the module of a layer whose *input* is the residual that the down-projection's
    output is added to; `post_norm` is the norm applied to that sum, for post-norm models.
    """

    name: str
    kind: Literal["masked", "causal"]
    layers: str
    attention: str
    down_projection: str
    residual: str
    post_norm: str | None
    final_norm: str | None
    head: str
    unembedding: str
    rotary: str | None
    activation_config: str

    def layer_modules(self, model: nn.Module) -> nn.ModuleList:
        return model.get_submodule(self.layers)

    def down(self, model: nn.Module, layer: int) -> nn.Module:
        return self.layer_modules(model)[layer].get_submodule(self.down_projection)

    def value_vectors(self, model: nn.Module, layer: int) -> Tensor:
        """The neurons' value vectors, (n_neurons, d_model): what one unit of activation writes."""
        down = self.down(model, layer)
        # nn.Linear keeps (out, in); GPT-2's Conv1D keeps (in, out).
        return down.weight.T if isinstance(down, nn.Linear) else down.weight

    def tail(self, model: nn.Module, layer: int, residual: Tensor, write: Tensor) -> Tensor:
        """What the layer hands on, given its residual and what its down-projection wrote: (…, d_model)."""
        total = residual + write
        if self.post_norm is None:
            return total
        return self.layer_modules(model)[layer].get_submodule(self.post_norm)(total)

    def logits(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """The last layer's output, (…, d_model), in the vocabulary: (…, n_tokens), in float32."""
        if self.final_norm is not None:
            hidden = model.get_submodule(self.final_norm)(hidden)
        return model.get_submodule(self.head)(hidden).float()

    def token_embeddings(self, model: nn.Module) -> Tensor:
        """The unembedding's rows, (n_tokens, d_model): the direction that promotes each token."""
        return model.get_submodule(self.unembedding).weight


BERT = Family(
    name="bert",
    kind="masked",
    layers="bert.encoder.layer",
    attention="attention.self",
    down_projection="output.dense",
    residual="intermediate",
    post_norm="output.LayerNorm",
    final_norm=None,
    head="cls.predictions",
    unembedding="cls.predictions.decoder",
    rotary=None,
    activation_config="hidden_act",
)
GPT2 = Family(
    name="gpt2",
    kind="causal",
    layers="transformer.h",
    attention="attn",
    down_projection="mlp.c_proj",
    residual="ln_2",
    post_norm=None,
    final_norm="transformer.ln_f",
    head="lm_head",
    unembedding="lm_head",
    rotary=None,
    activation_config="activation_function",
)
LLAMA = Family(
    name="llama",
    kind="causal",
    layers="model.layers",
    attention="self_attn",
    down_projection="mlp.down_proj",
    residual="post_attention_layernorm",
    post_norm=None,
    final_norm="model.norm",
    head="lm_head",
    unembedding="lm_head",
    rotary="model.rotary_emb",
    activation_config="hidden_act",
)

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
}


def family_of(model_type: str) -> Family:
    """The family of a transformers `model_type`; `ModelError` for one that is not in the table."""
    if model_type not in FAMILIES:
        raise ModelError(
            f"Models of type '{model_type}' are not supported. "
            f"Choose a model of one of these types: {', '.join(FAMILIES)}."
        )
    return FAMILIES[model_type]


def parameters_are_finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())
