"""A drop-in for EleutherAI's `knowledge-neurons`: its scripts run after a change of one import.

    from atlas.compat import KnowledgeNeurons, initialize_model_and_tokenizer, model_type
    model, tokenizer = initialize_model_and_tokenizer("bert-base-uncased")
    kn = KnowledgeNeurons(model, tokenizer, model_type=model_type("bert-base-uncased"))

Names, arguments, defaults and results are the original's; docs/drop-in.md lists what differs on purpose.
`KnowledgeNeurons(…, strict_replication=True)` gives the original's numbers.
"""

from atlas.compat.knowledge_neurons import KnowledgeNeurons
from atlas.compat.models import (
    ALL_MODELS,
    BERT_MODELS,
    GPT2_MODELS,
    GPT_NEO_MODELS,
    initialize_model_and_tokenizer,
    model_type,
)
from atlas.compat.pararel import PARAREL_RELATION_NAMES, pararel, pararel_expanded
from atlas.surgery.subject import subject_of

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
