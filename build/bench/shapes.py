"""The sizes of public models, as transformers' config takes them, and three small ones for tests.

shapes.SHAPES["gpt2"]           # (model type, options of its config)
"""

from __future__ import annotations

from typing import Any

_LLAMA_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert", {}),
    "bert-large": (
        "bert",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "gpt2": ("gpt2", {}),
    "llama-1b": (
        "llama",
        {"vocab_size": 128_256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "rms_norm_eps": 1e-5}
        | {"max_position_embeddings": 131_072, "tie_word_embeddings": True}
        | {"bos_token_id": 128_000, "eos_token_id": 128_001, "rope_parameters": _LLAMA_ROPE},
    ),
    "bert-tiny": (
        "bert",
        {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 64},
    ),
    "gpt2-tiny": (
        "gpt2",
        {"vocab_size": 500, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "llama-tiny": (
        "llama",
        {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "intermediate_size": 64, "tie_word_embeddings": True},
    ),
}
