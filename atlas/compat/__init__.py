"""A drop-in for EleutherAI's `knowledge-neurons`: scripts for it run after a change of one import.

    from atlas.compat import KnowledgeNeurons, initialize_model_and_tokenizer, model_type
    model, tokenizer = initialize_model_and_tokenizer("bert-base-uncased")
    kn = KnowledgeNeurons(model, tokenizer, model_type=model_type("bert-base-uncased"))

The same names, arguments, defaults and results, on this library. docs/drop-in.md has an example, and a table
of what is deliberately otherwise; `KnowledgeNeurons(…, strict_replication=True)` gives the original's
numbers.
"""

from atlas.compat.knowledge_neurons import KnowledgeNeurons
from atlas.compat.models import (
    ALL_MODELS,
    BERT_MODELS,
    GPT2_MODELS,
    GPT_NEO_MODELS,
    initialize_model_and_tokenizer,
    model_type,
    subject_of,
)
from atlas.compat.pararel import PARAREL_RELATION_NAMES, pararel, pararel_expanded

__all__ = [
    "ALL_MODELS",
    "BERT_MODELS",
    "GPT2_MODELS",
    "GPT_NEO_MODELS",
    "PARAREL_RELATION_NAMES",
    "KnowledgeNeurons",
    "initialize_model_and_tokenizer",
    "model_type",
    "pararel",
    "pararel_expanded",
    "subject_of",
]
