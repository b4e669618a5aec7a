"""The claims of the thesis, as data. The module holds no result.

    for claim in CLAIMS: print(claim.says, claim.bound)

To add a claim, add an entry: its sentence, its source, its threshold, and a function that reads its number
(`atlas.claims.reading`). There are at most `MOST`, so a new one may have to replace another. A table that an
atlas lacks is empty; the claim then reads None and is "not measured".
"""

from __future__ import annotations

from atlas.claims.claim import Beside, Claim
from atlas.claims.reading import (
    activation,
    best,
    counts_of_sharing,
    effect,
    first,
    identical,
    identical_in,
    kept_beside_random,
    lost,
    method_overlap,
    neurons_edited,
    other_answers,
    other_half,
    overlap,
    part_of_fall,
    planted,
    rewritten,
    shared_across,
    shared_in_relation,
)

MOST = 12

PAPER_MODEL = "BERT-base-cased"
PAPER_LINK = "https://arxiv.org/abs/2104.08696"
REPLICATION_LINK = "https://github.com/EleutherAI/knowledge-neurons"

# A change of the answer's probability by less than a tenth counts as none.
LITTLE = 0.1
_CHANGE = "Change of the answer's probability (%)"
_ASKED = "Held-out prompts of known facts; the paper's ratio, mean over relations."
_OWN = Beside("the fact itself", "own", effect("suppress", "own"))
_UNRELATED = Beside("unrelated facts", "unrelated", effect("suppress", "unrelated"))


def _left_alone(name: str, who: str, group: str, words: str, *, how: str) -> Claim:
    """Other facts than the suppressed one keep their answers."""
    return Claim(
        name=name,
        words=words,
        says=f"Suppressing a fact's neurons leaves {who} as they are.",
        source="implied by “knowledge neurons of a fact”",
        paper="not measured",
        side="above",
        threshold=-LITTLE,
        unit="change",
        axis=_CHANGE,
        how=f"{how} {_ASKED}",
        read=effect("suppress", group),
        beside=(_OWN, _UNRELATED),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="whose",
        words="its own part",
        says="More than half of what a fact loses without its neurons is its own loss.",
        source="implied by “knowledge neurons of a fact”",
        paper="not measured",
        side="above",
        threshold=0.5,
        axis="Part of the fall of the answer's probability (%)",
        how="Without the same neurons, facts that share its answer, its relation, both or neither lose some, "
        "too. Its own part is what facts that share both are spared; what sharing the answer or the relation "
        "adds is averaged over both orders. Relations in which all of them could be asked.",
        read=part_of_fall("own"),
        beside=(
            Beside("its answer's", "answer", part_of_fall("answer")),
            Beside("its relation's", "relation", part_of_fall("relation")),
            Beside("any fact's", "unrelated", part_of_fall("general")),
        ),
    ),
    Claim(
        name="suppress",
        words="its own neurons",
        says="Suppressing a fact's neurons lowers the probability of its answer, on other wordings, too.",
        source="section 4.5, figure 3",
        paper="−29.03 %, with about four neurons; its activation baseline −1.47 %",
        paper_value=-0.2903,
        side="below",
        threshold=-LITTLE,
        unit="change",
        axis=_CHANGE,
        how=f"Activations × 0 where the answer goes. {_ASKED} The paper holds no prompts out. "
        "At equal numbers of neurons, “its four best” stand beside the paper's. "
        "Matched: as many that contribute as much (|activation| × ‖value vector‖); where that was not "
        "measured, that are about as active.",
        read=effect("suppress", "own"),
        beside=(
            Beside("its four best", "own", best(4)),
            Beside("random neurons", "random", effect("suppress", "random")),
            Beside(
                "matched neurons",
                "matched",
                first(effect("suppress", "contribution_matched"), effect("suppress", "matched")),
            ),
            Beside("the most active", "baseline", effect("suppress", "baseline")),
        ),
        note=other_answers,
    ),
    Claim(
        name="amplify",
        words="its own neurons",
        says="Amplifying a fact's neurons raises the probability of its answer.",
        source="section 4.5, figure 4",
        paper="+31.17 %, with about four neurons; its activation baseline −1.27 %",
        paper_value=0.3117,
        side="above",
        threshold=LITTLE,
        unit="change",
        axis=_CHANGE,
        how=f"Activations × 2 where the answer goes. {_ASKED}",
        read=effect("amplify", "own"),
        beside=(
            Beside("random neurons", "random", effect("amplify", "random")),
            Beside(
                "matched neurons",
                "matched",
                first(effect("amplify", "contribution_matched"), effect("amplify", "matched")),
            ),
            Beside("the most active", "baseline", effect("amplify", "baseline")),
        ),
    ),
    _left_alone(
        "same-answer",
        "facts of other relations with the same answer",
        "same_answer",
        "facts with its answer",
        how="Asked: facts of another relation with the same answer, on prompts answered right before.",
    ),
    _left_alone(
        "same-relation",
        "facts of its relation with other answers",
        "same_relation",
        "facts of its relation",
        how="Asked: facts of the relation with another answer, on prompts answered right before.",
    ),
    Claim(
        name="contexts",
        words="only its subject",
        says="A fact's neurons are at most a tenth as active where only its subject is mentioned.",
        source="section 4.6, table of prompts with and without the answer",
        paper="0.019 ÷ 0.485 = 4 %; −0.018 on random prompts (means with their sign)",
        paper_value=0.019 / 0.485,
        side="below",
        threshold=0.1,
        axis="Size of the activation, as a share of that on its own prompts (%)",
        how="Mean |activation| of the neurons, whatever its sign: a neuron that pushes with a negative "
        "activation is not silent. The share is of their activation on the fact's held-out prompts.",
        read=activation("subject", "own"),
        beside=(
            Beside("another subject is asked", "relation", activation("relation", "own")),
            Beside("unrelated prompts", "unrelated", activation("random", "own")),
            Beside("random neurons, only subject", "random", activation("subject", "random")),
        ),
    ),
    Claim(
        name="edit",
        words="its own neurons",
        says="Rewriting a fact's neurons makes the model give the new answer, as often as in the paper.",
        source="section 5.1, table of edits",
        paper="34.4 %, with about four neurons; random neurons 0.0 %",
        paper_value=0.344,
        side="above",
        threshold=0.344,
        axis="The new answer comes first (%)",
        how="Value vectors lose the old answer's embedding and gain the new one's, λ = (1, 8), without the "
        "neurons that more than a tenth of the relation's facts have. Known facts, a held-out prompt.",
        read=rewritten("own"),
        beside=(
            Beside("on other wordings", "paraphrase", rewritten("own", "paraphrase")),
            Beside("the inverse relation agrees", "relation", rewritten("own", "symmetry")),
            Beside("random neurons", "random", rewritten("random")),
        ),
        note=neurons_edited,
    ),
    Claim(
        name="edit-others",
        words="other relations",
        says="An edit takes at most five points more of other relations' answers along than one of random "
        "neurons.",
        source="section 5.1, table of edits",
        paper="perplexity of other relations +7.2, of the same relation +8.4",
        side="above",
        threshold=-0.05,
        unit="points",
        axis="Right answers that stay, less those with random neurons (points)",
        how="The same edits. Right answers that stay, less those that stay with random neurons, on the same "
        "prompts; edits are drawn again as pairs.",
        read=kept_beside_random("other_relation"),
        beside=(
            Beside("same relation", "relation", kept_beside_random("same_relation")),
            Beside("same relation and answer", "shared", kept_beside_random("same_object")),
        ),
    ),
    Claim(
        name="erase",
        words="the relation itself",
        says="Erasing a relation's 20 most frequent neurons takes at least 40 % of its right answers away.",
        source="a post on LessWrong (40 to 60 %); the paper's section 5.2 has perplexities",
        paper="no right answers; perplexity grows by 107 % (P19) and 128 % (P106), of others by 1 to 10 %",
        side="above",
        threshold=0.4,
        axis="Right answers lost (%)",
        how="Value vectors become zero. Relations count by how many right answers they had.",
        read=lost("own", "own"),
        beside=(
            Beside("other relations", "unrelated", lost("own", "others")),
            Beside("random neurons", "random", lost("random", "own")),
        ),
    ),
    Claim(
        name="own",
        words="with the same answer",
        says="A fact's neurons are its own: another fact with the same answer has at most a quarter of them.",
        source="section 4.4, table of statistics",
        paper="two facts of a relation share 1.23 of 4.13 neurons (30 %), of two relations 0.09 (2 %)",
        side="below",
        threshold=0.25,
        axis="Share (%)",
        how="Mean number of neurons that two facts of a relation share ÷ mean number that its facts have; "
        "mean over relations. Identical sets: facts whose neurons are exactly another fact's, by mode of "
        "refinement.",
        read=shared_in_relation("same"),
        beside=(
            Beside("with another answer", "relation", shared_in_relation("other")),
            Beside("of another relation", "unrelated", shared_across),
            Beside("identical sets, as stored", "shared", identical),
            Beside("identical sets, mode paper", "shared", identical_in("paper")),
            Beside("identical sets, replication", "shared", identical_in("replication")),
        ),
        note=counts_of_sharing,
    ),
    Claim(
        name="wordings",
        words="the other half's",
        says="The other half of a fact's wordings finds at least half of the same neurons.",
        source="section 3.2: refining keeps what a fact's prompts share",
        paper="not measured",
        side="above",
        threshold=0.5,
        axis="Neurons in common, of those that either has (%)",
        how="Neurons found on the held-out half of the templates beside those found on the discovery half: "
        "Jaccard index, mean over facts.",
        read=overlap("jaccard"),
        beside=(
            Beside("another fact's, same relation", "relation", overlap("jaccard_relation")),
            Beside("an unrelated fact's", "unrelated", overlap("jaccard_random")),
            Beside("gradient × activation's", "method", method_overlap("gradient_x_activation")),
        ),
        note=other_half,
    ),
    Claim(
        name="planted",
        words="integrated gradients",
        says="Integrated gradients find at least half of the neurons that an answer was planted in.",
        source="section 3.1: the attribution finds the neurons that express a fact",
        paper="not measured",
        side="above",
        threshold=0.5,
        axis="Planted neurons found (%)",
        how="A made-up answer is taught to the value vectors of 60 random neurons alone; found: those among "
        "the 60 of the largest score. Planted is not learned: docs/planted.md.",
        read=planted("integrated_gradients", 60),
        beside=(
            Beside("gradient × activation", "method", planted("gradient_x_activation", 60)),
            Beside("activation", "baseline", planted("activation", 60)),
            Beside("a random order", "random", planted("random", 60)),
        ),
    ),
)
