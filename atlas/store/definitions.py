"""The tables and views of an atlas as data: descriptions, sort keys, columns and their types.

`atlas.store.schema` makes pyarrow schemas of them. Tables follow the order of a build: facts and prompts,
neurons, measurements.
"""

from __future__ import annotations

import pyarrow as pa

_TEXT = pa.string()
_LAYER = pa.int16()
_NEURON = pa.int32()
_COUNT = pa.int32()
_SCORE = pa.float32()
_FLAG = pa.bool_()
_NUMBERS = pa.list_(pa.float32())
_TEXTS = pa.list_(pa.string())
_GUESSES = pa.list_(pa.struct([pa.field("token", pa.string()), pa.field("probability", pa.float32())]))
_TOKENS = pa.list_(pa.struct([pa.field("token", pa.string()), pa.field("logit", pa.float32())]))

_RELATION_ID = ("relation_id", _TEXT, "Wikidata property id of the relation, such as P36.")
_FACT_ID = ("fact_id", _TEXT, "Identifier of the fact, unique within the data set.")
_TEMPLATE_ID = ("template_id", _TEXT, "Identifier of the template the prompt was made from.")
_LAYER_COLUMN = ("layer", _LAYER, "Layer of the neuron, counted from 0.")
_NEURON_COLUMN = ("neuron", _NEURON, "Index of the neuron among the inputs of its layer's down-projection.")

# Table → (sentence, sort keys, columns as (name, type, sentence)).
DEFINITIONS: dict[str, tuple[str, tuple[str, ...], tuple[tuple[str, pa.DataType, str], ...]]] = {
    "relations": (
        "One row a relation that has facts in this atlas.",
        ("relation_id",),
        (
            _RELATION_ID,
            ("label", _TEXT, "The relation in words, such as 'capital'."),
            ("n_facts", _COUNT, "Number of the relation's facts in this atlas."),
            ("n_templates", _COUNT, "Number of templates this model can be asked with."),
        ),
    ),
    "templates": (
        "One row a template that this model can be asked with.",
        ("relation_id", "template_id"),
        (
            _RELATION_ID,
            ("template_id", _TEXT, "Identifier of the template."),
            ("text", _TEXT, "The sentence with [X] for the subject and [Y] for the answer."),
            ("held_out", _FLAG, "Whether its prompts are kept for evaluation and find no neurons."),
        ),
    ),
    "facts": (
        "One row a fact, with how well the model knows it.",
        ("fact_id",),
        (
            _FACT_ID,
            _RELATION_ID,
            ("subject", _TEXT, "Whom or what the fact is about."),
            ("object", _TEXT, "The answer the prompts ask for."),
            (
                "n_prompts",
                _COUNT,
                "Number of the fact's rows in prompts, held-out ones included; 0 where none is stored and "
                "its templates make them.",
            ),
            ("n_neurons", _COUNT, "Number of its knowledge neurons after refinement."),
            ("known", _FLAG, "Whether the answer has rank 1 on more than half of the fact's prompts."),
            ("mean_probability", _SCORE, "Mean probability of the answer over the fact's prompts."),
            (
                "contested",
                _FLAG,
                "Whether several answers are defensible; null where nobody has gone through the facts.",
            ),
            (
                "guessable",
                _FLAG,
                "Whether the subject suggests the answer; null where nobody has gone through the facts.",
            ),
            ("n_answer_tokens", _LAYER, "Number of tokens of the answer, the most over its prompts."),
            (
                "consistency",
                _SCORE,
                "Mean Jaccard index of the coarse neurons of two of its discovery prompts, over all pairs of "
                "which one has any; null where there is none.",
            ),
        ),
    ),
    "prompts": (
        "One row a prompt: what the model answered, and the certificate of its attribution.",
        ("fact_id", "template_id"),
        (
            _FACT_ID,
            _TEMPLATE_ID,
            ("text", _TEXT, "The sentence with its subject filled in and [Y] where the answer goes."),
            ("held_out", _FLAG, "Whether the prompt is kept for evaluation and finds no neurons."),
            ("probability", _SCORE, "Probability of the answer: the product over its tokens."),
            ("rank", _COUNT, "Rank of the answer's worst token; 1 when greedy decoding says the answer."),
            ("top_token", _TEXT, "The model's most likely token at the first answer position."),
            ("top_probability", _SCORE, "Probability of that token."),
            (
                "max_gap",
                _SCORE,
                "Largest completeness gap |Σ score − (P(1) − P(0))| over answer tokens and layers, relative "
                "to its token's largest |score|; null where the prompt was not attributed.",
            ),
            (
                "n_points",
                _COUNT,
                "Path evaluations spent, summed over answer tokens and layers; null where not attributed.",
            ),
            (
                "converged",
                _FLAG,
                "Whether every path met the tolerance (n_unconverged is 0); null where not attributed.",
            ),
            ("n_answer_tokens", _LAYER, "Number of tokens of the answer."),
            (
                "max_score",
                _SCORE,
                "Largest attribution score of the prompt, the unit of every threshold; a prompt whose "
                "largest score is not positive has no coarse neurons; null where not attributed.",
            ),
            ("n_layers", _LAYER, "Number of layers attributed; null where not attributed."),
            (
                "n_unconverged",
                _COUNT,
                "Number of (answer token, layer) paths outside the tolerance; null where not attributed.",
            ),
        ),
    ),
    "attributions": (
        "One row a (prompt, neuron) whose score is at least a tenth of the prompt's largest.",
        ("fact_id", "template_id", "layer", "neuron"),
        (
            _FACT_ID,
            _TEMPLATE_ID,
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("score", _SCORE, "Attribution score: the neuron's share of P(1) − P(0), mean over tokens."),
        ),
    ),
    "knowledge_neurons": (
        "One row a (fact, neuron) that survived refinement.",
        ("fact_id", "layer", "neuron"),
        (
            _FACT_ID,
            _RELATION_ID,
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("share", _SCORE, "Share of the fact's discovery prompts in which the neuron is coarse."),
            ("mean_score", _SCORE, "Mean score over the discovery prompts where the score was stored."),
            ("max_score", _SCORE, "Largest stored score over the discovery prompts."),
            (
                "mean_activation",
                _SCORE,
                "Mean activation at the first answer position over the fact's discovery prompts. Below zero, "
                "the neuron pushes the tokens that its value vector lowers.",
            ),
        ),
    ),
    "neurons": (
        "One row a neuron that is a knowledge neuron of at least one fact.",
        ("layer", "neuron"),
        (
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("n_facts", _COUNT, "Number of facts it is a knowledge neuron of."),
            ("n_relations", _COUNT, "Number of relations those facts belong to."),
            ("value_norm", _SCORE, "Euclidean norm of its value vector, its row of the down-projection."),
            ("promoted", _TOKENS, "Tokens its value vector raises most, with their logits."),
            ("suppressed", _TOKENS, "Tokens its value vector lowers most, with their logits."),
            (
                "label",
                _TEXT,
                "The relation or answer that its facts share beyond chance, and the tokens that it pushes "
                "for them, as in 'capital · Paris, cities'; null where its activation does not bear it out.",
            ),
            (
                "label_score",
                _SCORE,
                "Balanced accuracy with which its activation on held-out prompts tells that relation or "
                "answer from others, by a threshold from discovery prompts of other facts; 0.5 is chance.",
            ),
            (
                "sign_mixed",
                _FLAG,
                "Whether its mean activation is above zero for a tenth of its facts or more, and below zero "
                "for a tenth or more.",
            ),
        ),
    ),
    "activating_prompts": (
        "One row a prompt on which a neuron is most (top) or least (bottom) active: on each side at most one "
        "a fact and three a relation.",
        ("layer", "neuron", "side", "rank"),
        (
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("side", _TEXT, "'top' for the largest activations, 'bottom' for the smallest."),
            ("rank", _LAYER, "Place on that side, from 1."),
            _FACT_ID,
            _TEMPLATE_ID,
            ("activation", _SCORE, "The neuron's activation at the first answer position."),
            (
                "tokens",
                _TEXTS,
                "The prompt as the model reads it: with masks for the answer, or up to the answer.",
            ),
            ("activations", _NUMBERS, "The neuron's activation at each token, to 8 binary digits."),
            ("answer_position", _LAYER, "Place of the first answer position among the tokens, from 0."),
        ),
    ),
    "lens": (
        "One row a (prompt, layer): what the model would answer if it ended after that layer (the logit "
        "lens), on one discovery and one held-out prompt of each fact.",
        ("fact_id", "template_id", "layer"),
        (
            _FACT_ID,
            _TEMPLATE_ID,
            (
                "layer",
                _LAYER,
                "Layer after which the final norm and the head read the first answer position, counted from "
                "0; the last one gives the model's prediction.",
            ),
            ("probability", _SCORE, "Probability of the answer's first token."),
            ("rank", _COUNT, "Rank of that token."),
            (
                "top",
                _GUESSES,
                "The three likeliest tokens with their probabilities; in early layers unreliable.",
            ),
        ),
    ),
    "effects": (
        "One row a (fact, prompt, intervention, group): the answer's probability before and after.",
        ("fact_id", "prompt_fact_id", "template_id", "intervention", "group"),
        (
            ("fact_id", _TEXT, "The fact whose knowledge neurons (or their stand-ins) were changed."),
            (
                "prompt_fact_id",
                _TEXT,
                "The fact the prompt asks for: fact_id itself, except in the groups that ask other facts.",
            ),
            ("template_id", _TEXT, "Template of the prompt."),
            (
                "intervention",
                _TEXT,
                "'suppress' (activation × 0), 'amplify' (activation × 2), or 'mean' (activation set to its "
                "mean over prompts of other facts).",
            ),
            (
                "group",
                _TEXT,
                "'own': the fact's neurons; 'top_1' to 'top_8': its so many of the largest mean score; "
                "'random': as many of the same layers; 'matched' and 'contribution_matched': as many of the "
                "same layers, those left over that come nearest in activation (how near: activity), or in "
                "|activation| × ‖value vector‖, on the fact's discovery prompts; 'baseline': as many that "
                "are most active there, own ones among them. 'same_relation', 'same_answer', "
                "'same_relation_same_answer': its neurons, on a prompt of another fact that shares this and "
                "no more; 'unrelated': on one of a fact that differs in relation and object.",
            ),
            ("held_out", _FLAG, "Whether the prompt's template was held out of discovery."),
            ("n_neurons", _COUNT, "Number of neurons that were changed."),
            (
                "activity",
                _SCORE,
                "Mean |activation| of the changed neurons on the discovery prompts of the fact; null where "
                "only the build's own evaluation was run.",
            ),
            ("p_before", _SCORE, "Probability of the prompt's answer without the intervention."),
            ("p_after", _SCORE, "Probability of the prompt's answer with it."),
            ("rank_before", _COUNT, "Rank of the answer without it."),
            ("rank_after", _COUNT, "Rank of the answer with it."),
            ("top_changed", _FLAG, "Whether the model's most likely token became another."),
            (
                "change",
                _SCORE,
                "p_after ÷ p_before − 1 in imported results, which state no probabilities; there a rank is 1 "
                "or null (not first), and prompt_fact_id is null where they do not name the unrelated fact.",
            ),
        ),
    ),
    "control_neurons": (
        "One row a (fact, control, neuron): which neurons each control of effects changed.",
        ("fact_id", "group", "draw", "layer", "neuron"),
        (
            ("fact_id", _TEXT, "The fact whose neurons they stand in for."),
            (
                "group",
                _TEXT,
                "'random', 'matched', 'contribution_matched' or 'baseline', as in effects, for every "
                "intervention. The other groups change the fact's knowledge_neurons.",
            ),
            ("draw", _LAYER, "Number of the draw, from 1; effects have one draw of each control."),
            _LAYER_COLUMN,
            _NEURON_COLUMN,
        ),
    ),
    "effect_summaries": (
        "One row a (relation, intervention, group, templates, facts): the effects in the two ratios.",
        ("relation_id", "intervention", "group", "templates", "facts"),
        (
            (
                "relation_id",
                _TEXT,
                "Relation of the facts whose neurons were changed; 'all' for the mean over relations, each "
                "counting alike.",
            ),
            ("intervention", _TEXT, "'suppress', 'amplify' or 'mean'."),
            ("group", _TEXT, "Which neurons were changed, or whose prompts asked: as in effects."),
            ("templates", _TEXT, "'discovery' or 'held-out': which of the fact's prompts were asked."),
            (
                "facts",
                _TEXT,
                "'known': the model knows the changed fact, and knows the asked one or answers this prompt "
                "rightly; 'unknown': it does not know the changed one; 'all': every one.",
            ),
            ("n_relations", _COUNT, "Number of relations that count."),
            ("n_facts", _COUNT, "Number of facts whose neurons were changed."),
            ("n_prompts", _COUNT, "Number of prompts asked."),
            ("mean_before", _SCORE, "Mean probability of the answers without the intervention."),
            ("mean_after", _SCORE, "Mean probability with it."),
            (
                "paper_change",
                _SCORE,
                "The paper's ratio: mean change of probability over mean probability, of a relation.",
            ),
            (
                "paper_low",
                _SCORE,
                "Its bootstrap interval, lower end (2.5 %): facts are drawn again within their relation, for "
                "'all' relations, too; null where there is but one fact.",
            ),
            ("paper_high", _SCORE, "Its bootstrap interval, upper end (97.5 %)."),
            (
                "replication_change",
                _SCORE,
                "The replication's ratio: mean of (change ÷ probability) over the prompts of a relation.",
            ),
            ("replication_low", _SCORE, "Its bootstrap interval, lower end (2.5 %)."),
            ("replication_high", _SCORE, "Its bootstrap interval, upper end (97.5 %)."),
            ("top_changed", _SCORE, "Share of prompts whose most likely token became another."),
            (
                "activity",
                _SCORE,
                "Mean over facts of how active the changed neurons are, as a multiple of the fact's own.",
            ),
        ),
    ),
    "specificity": (
        "One row a (relation, part): what of a fact's loss without its neurons others lose, too.",
        ("relation_id", "part"),
        (
            (
                "relation_id",
                _TEXT,
                "Relation of the facts whose neurons were suppressed; 'all' for the mean over relations.",
            ),
            (
                "part",
                _TEXT,
                "'fall': the share of the answer's probability that is lost on held-out prompts of known "
                "facts; 'general': what unrelated facts lose; 'relation' and 'answer': what sharing it adds, "
                "averaged over both orders; 'own': what facts that share both are spared. The four sum to "
                "the fall.",
            ),
            ("value", _SCORE, "The part, as a share of the probability before."),
            ("low", _SCORE, "Its bootstrap interval, lower end (2.5 %)."),
            ("high", _SCORE, "Its bootstrap interval, upper end (97.5 %)."),
            ("share", _SCORE, "The part, as a share of the fall."),
            ("share_low", _SCORE, "Its bootstrap interval, lower end (2.5 %)."),
            ("share_high", _SCORE, "Its bootstrap interval, upper end (97.5 %)."),
            ("n_relations", _COUNT, "Relations that count: those with 10 prompts of each group or more."),
            ("n_facts", _COUNT, "Number of facts whose neurons were suppressed."),
            ("n_prompts", _COUNT, "Number of prompts of the group that was asked least."),
        ),
    ),
    "generations": (
        "One row a (known fact, group): what a causal model goes on to say, 20 tokens, each the likeliest.",
        ("fact_id", "group"),
        (
            ("fact_id", _TEXT, "The fact whose knowledge neurons (or their stand-ins) were suppressed."),
            (
                "prompt_fact_id",
                _TEXT,
                "The fact the prompt asks for: fact_id itself, except in the groups that ask other facts.",
            ),
            (
                "template_id",
                _TEXT,
                "Template of the prompt: a fact's first held-out one that is answered right.",
            ),
            (
                "group",
                _TEXT,
                "'unchanged'; 'own': without the fact's neurons, from the answer position on: there and at "
                "every generated token; 'random': without as many random ones, those of control_neurons if "
                "drawn by the same seed; 'unrelated': without the fact's, on the prompt of a known fact that "
                "differs in relation and object, whose own row 'unchanged' has the text to compare.",
            ),
            ("n_neurons", _COUNT, "Number of neurons that were suppressed."),
            ("text", _TEXT, "The text after the prompt; shorter where the model ends it."),
        ),
    ),
    "edits": (
        "One row a prompt asked about an edit: what it did to the old answer and to the new one.",
        ("fact_id", "new_object", "remove", "add", "group", "kind", "prompt_fact_id", "template_id"),
        (
            ("fact_id", _TEXT, "The fact that was edited."),
            (
                "new_object",
                _TEXT,
                "The answer the edit wrote: the object of another fact of the relation.",
            ),
            ("remove", _SCORE, "Strength λ₁ against the old answer."),
            ("add", _SCORE, "Strength λ₂ for the new answer."),
            (
                "group",
                _TEXT,
                "'own': the fact's neurons without those that more than 10 % of its relation's facts have; "
                "'all': all of them; 'random', 'random_all': as many others of the same layers ('random_all' "
                "on the prompt 'edited' only).",
            ),
            (
                "kind",
                _TEXT,
                "'edited': the prompt the edit is judged by; 'paraphrase': the fact's other held-out ones; "
                "'same_object', 'same_relation' and 'other_relation': prompts of facts that should stay as "
                "they are (of the relation with the same object, or with others; of other relations); "
                "'symmetry': a prompt of the inverse relation whose answer the edit should change.",
            ),
            (
                "prompt_fact_id",
                _TEXT,
                "The fact that the prompt asks for. Where a 'symmetry' prompt is none of the atlas: the fact "
                "that the new answer was taken from, asked the other way round.",
            ),
            _TEMPLATE_ID,
            ("n_neurons", _COUNT, "Number of neurons whose value vectors were edited."),
            ("p_old_before", _SCORE, "Probability of the prompt's own answer without the edit."),
            ("p_old_after", _SCORE, "Probability of the prompt's own answer with it."),
            ("rank_old_before", _COUNT, "Rank of the prompt's own answer without the edit."),
            ("rank_old_after", _COUNT, "Rank of the prompt's own answer with it."),
            (
                "p_new_before",
                _SCORE,
                "Probability of the new answer without the edit; with 'symmetry' of the edited fact's "
                "subject, which would then be right; null with 'other_relation', where it is not asked.",
            ),
            ("p_new_after", _SCORE, "The same with it."),
            ("rank_new_before", _COUNT, "Rank of that answer without the edit."),
            ("rank_new_after", _COUNT, "Rank of that answer with it."),
            ("top_changed", _FLAG, "Whether the model's most likely token became another."),
        ),
    ),
    "erasures": (
        "One row a (relation erased, dose, relation asked): accuracy and perplexity of its prompts.",
        ("relation_id", "group", "n_neurons", "asked_relation_id"),
        (
            ("relation_id", _TEXT, "The relation whose most frequent neurons' value vectors became zero."),
            (
                "group",
                _TEXT,
                "'own': its most frequent neurons; 'random': as many of the same layers.",
            ),
            ("n_neurons", _COUNT, "Number of value vectors that became zero: the dose."),
            ("asked_relation_id", _TEXT, "The relation whose prompts were asked."),
            ("n_prompts", _COUNT, "Number of prompts asked."),
            ("accuracy_before", _SCORE, "Share of prompts whose answer has rank 1 before."),
            ("accuracy_after", _SCORE, "Share of prompts whose answer has rank 1 after."),
            (
                "perplexity_before",
                _SCORE,
                "exp of the mean of −log P(answer's token) over the prompts' answer tokens, before.",
            ),
            ("perplexity_after", _SCORE, "The same after."),
            ("mean_before", _SCORE, "Mean probability of the answers before."),
            ("mean_after", _SCORE, "Mean probability of the answers after."),
        ),
    ),
    "contexts": (
        "One row a (fact, context, group): how active a fact's neurons are where it is stated, or not.",
        ("fact_id", "context", "group"),
        (
            _FACT_ID,
            (
                "context",
                _TEXT,
                "'fact': the fact's held-out prompts; 'subject': sentences that mention its subject only; "
                "'relation': prompts of its relation about other subjects; 'random': prompts that share "
                "neither relation, nor subject, nor object.",
            ),
            ("group", _TEXT, "'own': the fact's neurons; 'random': as many of the same layers."),
            ("n_neurons", _COUNT, "Number of neurons."),
            ("n_prompts", _COUNT, "Number of sentences."),
            ("activation", _SCORE, "Mean activation at the answer position over neurons and sentences."),
            ("magnitude", _SCORE, "Mean |activation| over neurons and sentences."),
            (
                "relative",
                _SCORE,
                "Median over neurons of mean activation ÷ the neuron's root mean square over the fact's "
                "discovery prompts, with the sign it has there: 1 is as active as on those.",
            ),
        ),
    ),
    "statistics": (
        "One row a refinement: what the stored scores give under other thresholds (t, p) and modes.",
        ("mode", "threshold", "share"),
        (
            (
                "mode",
                _TEXT,
                "'default', 'paper' or 'replication' as they are; 'grid' for the default with other (t, p), "
                "where below the default's p one prompt is enough; 'stored' for the atlas's own neurons.",
            ),
            (
                "threshold",
                _SCORE,
                "t: a coarse neuron has at least this share of its prompt's maximum.",
            ),
            (
                "share",
                _SCORE,
                "p: a knowledge neuron is coarse in at least this share of a fact's prompts; null where the "
                "mode fits it to each relation.",
            ),
            ("n_facts", _COUNT, "Number of facts."),
            ("n_empty", _COUNT, "Number of facts without a neuron."),
            ("mean_neurons", _SCORE, "Mean number of neurons a fact."),
            ("median_neurons", _SCORE, "Median number of neurons a fact."),
            ("most_neurons", _COUNT, "Largest number of neurons a fact."),
            ("within", _SCORE, "Mean number of neurons two facts of a relation share, relations alike."),
            ("across", _SCORE, "Mean number two facts of different relations share, relations alike."),
            (
                "same_object",
                _SCORE,
                "Mean number two facts of a relation with the same object share; relations that have pairs "
                "with the same object and with different ones, alike.",
            ),
            ("other_object", _SCORE, "The same of two facts with different objects, in the same relations."),
            ("identical", _SCORE, "Share of facts with neurons whose set another fact has, too."),
            ("commonest", _SCORE, "Share of facts that have the commonest neuron."),
            ("hubs", _SCORE, "Share of facts that have one of the 20 commonest neurons."),
            ("layer_shares", _NUMBERS, "Share of all (fact, neuron) pairs in each layer, from layer 0."),
        ),
    ),
    "stability": (
        "One row a fact: its neurons found on one half of its templates and on the other.",
        ("fact_id",),
        (
            _FACT_ID,
            ("n_discovery", _COUNT, "Number of neurons found on the discovery templates: the stored ones."),
            ("n_held_out", _COUNT, "Number of neurons found on the held-out templates."),
            ("shared", _COUNT, "Number found on both."),
            ("jaccard", _SCORE, "shared ÷ number found on either; null where neither half has any."),
            (
                "jaccard_relation",
                _SCORE,
                "The same of the held-out half's neurons and the stored neurons of another fact of the "
                "relation with another object; null where there is none.",
            ),
            (
                "jaccard_random",
                _SCORE,
                "The same of the held-out half's neurons and the stored neurons of a fact that differs in "
                "relation and object; null where there is none.",
            ),
            ("p_before", _SCORE, "Mean probability of the answer on the discovery prompts."),
            ("p_discovery", _SCORE, "The same with the neurons of the discovery half suppressed."),
            (
                "p_held_out",
                _SCORE,
                "The same with those of the held-out half, found on other templates; p_before where it finds "
                "none.",
            ),
        ),
    ),
    "subsets": (
        "One row a (fact, order, k): the answer's probability with the first k neurons suppressed.",
        ("fact_id", "order", "k"),
        (
            _FACT_ID,
            ("order", _TEXT, "'score': largest mean score first; 'random': in a random order."),
            ("k", _COUNT, "Number of neurons suppressed."),
            ("n_neurons", _COUNT, "Number of the fact's neurons."),
            ("p_before", _SCORE, "Mean probability of the answer on held-out prompts."),
            ("p_after", _SCORE, "The same with the first k neurons suppressed."),
        ),
    ),
    "methods": (
        "One row a (fact, method, mode): other ways to choose neurons, by overlap and by effect.",
        ("fact_id", "method", "mode"),
        (
            _FACT_ID,
            (
                "method",
                _TEXT,
                "'integrated_gradients', 'activation', 'gradient_x_activation' or 'log_prob_increase'.",
            ),
            (
                "mode",
                _TEXT,
                "Refinement: 'default', 'paper' or 'replication'; 'count' for as many neurons as the default "
                "has, those of the largest mean score relative to each prompt's.",
            ),
            ("n_neurons", _COUNT, "Number of neurons chosen."),
            ("shared", _COUNT, "Number that integrated gradients with the same mode chose, too."),
            ("p_before", _SCORE, "Mean probability of the answer on held-out prompts."),
            ("p_suppressed", _SCORE, "The same with the neurons suppressed."),
            ("p_amplified", _SCORE, "The same with their activations doubled."),
        ),
    ),
    "synonymy": (
        "One row a prompt asked about an edit, with the edited fact's subject or with a synonym of it.",
        ("fact_id", "add", "group", "asked", "template_id"),
        (
            ("fact_id", _TEXT, "The fact that was edited."),
            ("new_object", _TEXT, "The answer the edit wrote, as in edits."),
            ("remove", _SCORE, "Strength λ₁ against the old answer."),
            ("add", _SCORE, "Strength λ₂ for the new answer."),
            ("group", _TEXT, "Which neurons were edited: 'own', 'all' or 'random', as in edits."),
            ("asked", _TEXT, "Whom or what the prompt names: the fact's subject, or a synonym of it."),
            ("synonym", _FLAG, "Whether that is a synonym."),
            ("template_id", _TEXT, "Held-out template of the prompt."),
            ("n_neurons", _COUNT, "Number of neurons whose value vectors were edited."),
            ("p_old_before", _SCORE, "Probability of the old answer without the edit."),
            ("p_old_after", _SCORE, "Probability of the old answer with it."),
            ("rank_old_before", _COUNT, "Rank of the old answer without the edit."),
            ("rank_old_after", _COUNT, "Rank of the old answer with it."),
            ("p_new_before", _SCORE, "Probability of the new answer without the edit."),
            ("p_new_after", _SCORE, "Probability of the new answer with it."),
            ("rank_new_before", _COUNT, "Rank of the new answer without the edit."),
            ("rank_new_after", _COUNT, "Rank of the new answer with it."),
            ("top_changed", _FLAG, "Whether the model's most likely token became another."),
        ),
    ),
    "grammar": (
        "One row a (minimal pair, prompt, change, group): a word that is right in a sentence and one that is "
        "wrong, before and after a change of the neurons found for the right one.",
        ("phenomenon", "pair_id", "template_id", "intervention", "add", "group"),
        (
            ("phenomenon", _TEXT, "Phenomenon of English grammar, such as 'agreement-simple'."),
            ("pair_id", _TEXT, "Identifier of the minimal pair."),
            ("template_id", _TEXT, "Identifier of the wording."),
            (
                "intervention",
                _TEXT,
                "'none', on every prompt; of known pairs, on held-out ones, 'suppress' (activation × 0) and "
                "'edit' (value vectors moved from the right word to the wrong one).",
            ),
            ("add", _SCORE, "Strength λ₂ of an edit, whose λ₁ is 1; 0 for 'none' and 'suppress'."),
            (
                "group",
                _TEXT,
                "'own': the pair's neurons; 'random': as many of the same layers; 'none' with 'none'.",
            ),
            ("held_out", _FLAG, "Whether the wording is kept for evaluation and finds no neurons."),
            ("text", _TEXT, "The sentence with [Y] where the word goes."),
            ("good", _TEXT, "The word that is right there."),
            ("bad", _TEXT, "The word that is wrong there."),
            (
                "known",
                _FLAG,
                "Whether the right word is likelier on more than half of its prompts; null where a word is "
                "no token of the model.",
            ),
            ("n_neurons", _COUNT, "Number of neurons: those found for the pair, or changed."),
            (
                "n_shared",
                _COUNT,
                "How many of them are knowledge neurons of a fact, too; with 'none' only.",
            ),
            (
                "shared_by_chance",
                _SCORE,
                "How many of as many random neurons of the same layers are; with 'none' only.",
            ),
            ("p_good_before", _SCORE, "Probability of the right word without the change."),
            ("p_good_after", _SCORE, "Probability of the right word with it; null with 'none'."),
            ("rank_good_before", _COUNT, "Rank of the right word without the change."),
            ("rank_good_after", _COUNT, "Rank of the right word with it."),
            ("p_bad_before", _SCORE, "Probability of the wrong word without the change."),
            ("p_bad_after", _SCORE, "Probability of the wrong word with it."),
            ("rank_bad_before", _COUNT, "Rank of the wrong word without the change."),
            ("rank_bad_after", _COUNT, "Rank of the wrong word with it."),
        ),
    ),
    "planted": (
        "One row a (fact, number of neurons, method): whether a method finds the neurons that a made-up "
        "answer was planted in.",
        ("fact_id", "n_planted", "method"),
        (
            _FACT_ID,
            ("n_planted", _COUNT, "Number of random neurons whose value vectors were taught the answer."),
            ("method", _TEXT, "The method that was asked for them; 'random' is chance."),
            ("answer", _TEXT, "The made-up answer: an object of the relation that is not the subject's."),
            ("seed", _COUNT, "Seed of the answer and of the neurons."),
            ("n_steps", _COUNT, "Number of training steps."),
            (
                "learned",
                _FLAG,
                "Whether the neurons hold the answer: it has rank 1 on more than half of the held-out "
                "prompts, and falls by 90 % or more when they are suppressed. Where not, no method was "
                "scored.",
            ),
            ("p_before", _SCORE, "Mean probability of the answer on held-out prompts before planting."),
            ("p_after", _SCORE, "The same in the planted model."),
            ("share_first", _SCORE, "Share of the held-out prompts on which it has rank 1 in that model."),
            ("p_suppressed", _SCORE, "The same with the planted neurons suppressed."),
            (
                "recall",
                _SCORE,
                "Share of the planted neurons among as many that the method scores highest; for 'random' the "
                "mean over 50 orders. Null where the answer was not learned.",
            ),
            ("precision", _SCORE, "Share of planted neurons among the 10 that it scores highest."),
            (
                "auc",
                _SCORE,
                "Chance that it scores a planted neuron higher than another neuron; 0.5 is chance.",
            ),
            (
                "p_found_suppressed",
                _SCORE,
                "Mean probability of the answer on held-out prompts with as many neurons suppressed as were "
                "planted, those that the method scores highest.",
            ),
        ),
    ),
    "planted_summaries": (
        "One row a (number of neurons, method): means of planted over the answers that were learned.",
        ("n_planted", "method"),
        (
            ("n_planted", _COUNT, "Number of neurons an answer was planted in."),
            ("method", _TEXT, "The method, as in planted."),
            ("n_plantings", _COUNT, "Number of plantings that were learned, and scored."),
            ("n_left_out", _COUNT, "Number of plantings that were not learned."),
            ("chance", _SCORE, "n_planted ÷ number of the model's neurons: what recall is by chance."),
            *(
                (f"{name}{end}", _SCORE, sentence)
                for name, mean in (
                    ("recall", "Mean recall"),
                    ("precision", "Mean precision"),
                    ("auc", "Mean auc"),
                    ("fall", "Mean of 1 − p_found_suppressed ÷ p_after"),
                )
                for end, sentence in (
                    ("", f"{mean}."),
                    ("_low", "Its bootstrap interval over plantings, lower end (2.5 %)."),
                    ("_high", "Its bootstrap interval over plantings, upper end (97.5 %)."),
                )
            ),
        ),
    ),
}

# Table → its columns that older files lack, at its end; there they are null.
LATER_COLUMNS: dict[str, tuple[str, ...]] = {
    "facts": ("contested", "guessable", "n_answer_tokens", "consistency"),
    "knowledge_neurons": ("mean_activation",),
    "neurons": ("label", "label_score", "sign_mixed"),
    "activating_prompts": ("tokens", "activations", "answer_position"),
    "effects": ("change",),
}

# View of views.sql → (sentence, columns as (name, sentence)); their types follow from the tables.
DERIVED_VIEWS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "fact_prompts": (
        "One row a prompt: those stored in prompts and, of facts with none there, those that templates make.",
        tuple((column, text) for column, _, text in DEFINITIONS["prompts"][2]),
    ),
    "neuron_facts": (
        "One row a (fact, neuron): knowledge_neurons with the fact in words.",
        (
            ("layer", _LAYER_COLUMN[2]),
            ("neuron", _NEURON_COLUMN[2]),
            ("fact_id", _FACT_ID[2]),
            ("relation_id", _RELATION_ID[2]),
            ("label", "The relation in words, such as 'capital'."),
            ("subject", "Whom or what the fact is about."),
            ("object", "The answer the prompts ask for."),
            ("known", "Whether the answer has rank 1 on more than half of the fact's prompts."),
            ("share", "Share of the fact's discovery prompts in which the neuron is coarse."),
            ("mean_score", "Mean score over the discovery prompts where the score was stored."),
            ("max_score", "Largest stored score over the discovery prompts."),
        ),
    ),
    "relation_neurons": (
        "One row a (relation, neuron) of at least one of its facts, most shared first.",
        (
            ("relation_id", _RELATION_ID[2]),
            ("layer", _LAYER_COLUMN[2]),
            ("neuron", _NEURON_COLUMN[2]),
            ("n_facts", "Number of the relation's facts that have the neuron."),
            ("relation_share", "n_facts over all facts of the relation."),
            ("mean_share", "Mean of share over those facts."),
            ("mean_score", "Mean of mean_score over those facts."),
        ),
    ),
    "relation_overlap": (
        "One row a pair of relations, in both orders and with itself.",
        (
            ("relation_a", "Id of the one relation."),
            ("relation_b", "Id of the other relation, or the same."),
            ("within", "Whether both are the same relation."),
            ("n_pairs", "Number of pairs of two different facts, one of each."),
            ("mean_shared", "Mean number of neurons that two facts of a pair have in common."),
        ),
    ),
    "hub_neurons": (
        "One row a neuron of facts in more than one relation, those of most relations first.",
        (
            ("layer", _LAYER_COLUMN[2]),
            ("neuron", _NEURON_COLUMN[2]),
            ("n_facts", "Number of facts that have the neuron."),
            ("n_relations", "Number of relations those facts belong to."),
            ("fact_share", "n_facts over all facts that have neurons."),
        ),
    ),
    "layer_histogram": (
        "One row a layer that has knowledge neurons.",
        (
            ("layer", "Layer, counted from 0."),
            ("n_pairs", "Number of (fact, neuron) pairs in the layer."),
            ("n_neurons", "Number of different neurons."),
            ("n_facts", "Number of different facts."),
            ("pair_share", "n_pairs over the pairs of all layers."),
        ),
    ),
}
