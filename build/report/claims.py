"""The claims of the thesis, and how an atlas's numbers judge each. The module holds no result.

    judged = judge(found)                        # every claim that was measured, in the order of CLAIMS
    strongest(judged)                            # the one that speaks most against the thesis, or None

1. *Against.* Each claim gives one number from 0 to 1: how much of what it says is missing, or how much of the
   effect a control has, too. 0 is all as claimed; 1 is nothing left of it.
2. *Outcome.* Below `HOLDS` the claim holds; below `IN_PART` in part; from there on it does not.

The rules themselves: `build.report.rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atlas.numbers import NOT_MEASURED
from build.report import rules
from build.report.findings import Findings
from build.report.numbers import Measurement, in_unit
from build.report.paper_values import PublishedValue, Range
from build.report.rules import Assessment, Rule

HOLDS, IN_PART = 0.1, 0.5
FEWEST = 20
RULE = (
    "Each claim is turned into one number from 0 to 1 by a fixed rule: how much of the effect a control has, "
    "too, or how much of what is claimed is missing. Below 0.1 the claim **holds**, below 0.5 it holds "
    "**in part**, from 0.5 on it **does not hold**. A change of the answer's probability counts in full from "
    f"{in_unit(rules.LEAST_CHANGE, 'share', 0)} on, a smaller one in proportion. The strongest finding "
    f"against the thesis is the claim with the largest number, of those that count at least {FEWEST} "
    "facts, edits or relations."
)


@dataclass(frozen=True)
class Judgement:
    """What the numbers say to a claim. against: see above; detail: the numbers; n: the least of theirs."""

    claim: Claim
    against: float
    detail: str
    n: int

    @property
    def outcome(self) -> str:
        """'holds', 'in part' or 'does not hold'."""
        return "holds" if self.against < HOLDS else "in part" if self.against < IN_PART else "does not hold"


@dataclass(frozen=True)
class Claim:
    """One claim of the thesis, the words for its failing, and the rule that judges it."""

    name: str
    says: str
    fails: str
    rule: Rule


def judge(found: Findings) -> list[Judgement]:
    """Every claim that this atlas has numbers for."""
    result = []
    for claim in CLAIMS:
        said = claim.rule(found)
        if isinstance(said, Assessment):
            against = round(min(1.0, max(0.0, said.against)), 2)
            result.append(Judgement(claim, against, said.words, said.n))
    return result


def strongest(judged: list[Judgement]) -> Judgement | None:
    """The claim that speaks most against the thesis; of equals, the earlier one. None where all hold.

    Claims that count fewer than `FEWEST` are passed over, unless there are no others.
    """
    failing = [each for each in judged if each.outcome != "holds"]
    failing = [each for each in failing if each.n >= FEWEST] or failing
    return max(failing, key=lambda each: each.against, default=None)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "suppress",
        "Suppressing a fact's neurons lowers its answer's probability, on other wordings, too.",
        "Suppressing a fact's neurons does not lower its answer's probability on other wordings.",
        rules.suppress_lowers,
    ),
    Claim(
        "suppress-random",
        "Suppressing as many random neurons of the same layers has little effect.",
        "Suppressing as many random neurons does much of the same.",
        rules.control("suppress", "random"),
    ),
    Claim(
        "suppress-matched",
        "Suppressing as many neurons that are about as active has little effect.",
        "Suppressing as many neurons that are about as active does much of the same.",
        rules.control("suppress", "matched"),
    ),
    Claim(
        "suppress-baseline",
        "Suppressing the most active neurons, the paper's baseline, has little effect.",
        "Suppressing the most active neurons, the paper's baseline, does much of the same.",
        rules.control("suppress", "baseline"),
    ),
    Claim(
        "suppress-unrelated",
        "Suppressing a fact's neurons leaves unrelated facts as they are.",
        "Suppressing a fact's neurons moves unrelated facts, too.",
        rules.control("suppress", "unrelated"),
    ),
    Claim(
        "answer",
        "Without a fact's neurons the model says something else.",
        "Without a fact's neurons the model often says the same as before.",
        rules.answer_changes,
    ),
    Claim(
        "amplify",
        "Amplifying a fact's neurons raises its answer's probability.",
        "Amplifying a fact's neurons does not raise its answer's probability.",
        rules.amplify_raises,
    ),
    *(
        Claim(f"amplify-{group}", holds, fails, rules.control("amplify", group))
        for group, holds, fails in (
            (
                "random",
                "Amplifying as many random neurons raises nothing.",
                "Amplifying as many random neurons raises it, too.",
            ),
            (
                "matched",
                "Amplifying as many neurons that are about as active raises nothing.",
                "Amplifying as many neurons that are about as active raises it, too.",
            ),
            (
                "baseline",
                "Amplifying the most active neurons, the paper's baseline, raises nothing.",
                "Amplifying the most active neurons, the paper's baseline, raises it, too.",
            ),
            (
                "unrelated",
                "Amplifying a fact's neurons leaves unrelated facts as they are.",
                "Amplifying a fact's neurons moves unrelated facts, too.",
            ),
        )
    ),
    Claim(
        "edit",
        "Rewriting a fact's neurons makes the model give the new answer.",
        "Rewriting a fact's neurons often does not make the model give the new answer.",
        rules.edit_succeeds,
    ),
    Claim(
        "edit-random",
        "The same edit of random neurons does not succeed.",
        "The same edit of random neurons succeeds, too.",
        rules.edit_random,
    ),
    Claim(
        "edit-paraphrase",
        "After an edit, the new answer also comes on other wordings.",
        "After an edit, the new answer often does not come on other wordings.",
        rules.edit_paraphrase,
    ),
    Claim(
        "edit-symmetry",
        "After an edit, the inverse relation answers accordingly.",
        "After an edit, the inverse relation often does not answer accordingly.",
        rules.edit_symmetric,
    ),
    Claim(
        "edit-alike",
        "An edit takes no more facts with the same answer along than one of random neurons.",
        "An edit takes other facts with the same answer along: what was edited is the answer's.",
        rules.edit_keeps("alike"),
    ),
    Claim(
        "edit-same",
        "An edit takes no more facts of its relation along than one of random neurons.",
        "An edit takes more facts of its relation along than one of random neurons.",
        rules.edit_keeps("same"),
    ),
    Claim(
        "edit-other",
        "An edit takes no more facts of other relations along than one of random neurons.",
        "An edit takes more facts of other relations along than one of random neurons.",
        rules.edit_keeps("other"),
    ),
    Claim(
        "erase",
        "Erasing a relation's 20 most frequent neurons takes 40 % or more of its answers away.",
        "Erasing a relation's 20 most frequent neurons takes less than 40 % of its answers away.",
        rules.erase_loses,
    ),
    Claim(
        "erase-others",
        "Erasing a relation harms the others little.",
        "Erasing a relation harms the others, too.",
        rules.erase_spares("own", "others"),
    ),
    Claim(
        "erase-random",
        "Erasing as many random neurons takes few of its answers away.",
        "Erasing as many random neurons takes much of the same away.",
        rules.erase_spares("random", "own"),
    ),
    *(
        Claim(f"active-{context}", holds, fails, rules.context(context))
        for context, holds, fails in (
            (
                "subject",
                "A fact's neurons are at most a tenth as active where only its subject is mentioned.",
                "A fact's neurons are active where only its subject is mentioned, too.",
            ),
            (
                "relation",
                "A fact's neurons are at most a tenth as active where the same is asked of another subject.",
                "A fact's neurons are active where the same is asked of another subject, too.",
            ),
            (
                "random",
                "A fact's neurons are at most a tenth as active on prompts that have nothing to do with it.",
                "A fact's neurons are active on prompts that have nothing to do with it, too.",
            ),
        )
    ),
    Claim(
        "active-control",
        "Random neurons do not lose activation in the same way where only the subject is mentioned.",
        "Random neurons lose activation in much the same way where only the subject is mentioned.",
        rules.falls_silent,
    ),
    Claim(
        "layers",
        "The neurons lie in the upper layers.",
        "Many of the neurons do not lie in the upper layers.",
        rules.upper_layers,
    ),
    Claim(
        "exclusive",
        "Facts of different relations share hardly any neurons.",
        "Facts of different relations share neurons, too.",
        rules.exclusive,
    ),
    Claim(
        "hub",
        "No neuron belongs to a large part of all facts.",
        "One neuron belongs to a large part of all facts.",
        rules.no_hub,
    ),
    Claim(
        "answer-shared",
        "A fact's neurons are its own, not its answer's.",
        "Facts of a relation with the same answer share a large part of their neurons.",
        rules.same_answer,
    ),
    Claim(
        "identical",
        "Hardly any two facts have the same neurons.",
        "Many facts have exactly the neurons of another fact.",
        rules.identical,
    ),
    Claim(
        "stable",
        "The other half of a fact's templates finds the same neurons.",
        "The other half of a fact's templates finds other neurons.",
        rules.stable,
    ),
    Claim(
        "stable-relation",
        "Other wordings find a fact's own neurons rather than another fact's of the relation.",
        "Other wordings of a fact find much of another fact's neurons, too.",
        rules.stable_specific("relation"),
    ),
    Claim(
        "stable-random",
        "Other wordings find a fact's own neurons rather than an unrelated fact's.",
        "Other wordings of a fact find much of an unrelated fact's neurons, too.",
        rules.stable_specific("random"),
    ),
    Claim(
        "stable-effect",
        "Neurons that other templates found lower the answer as much.",
        "Neurons that other templates found lower the answer less.",
        rules.stable_effect,
    ),
    Claim(
        "methods",
        "Other methods that find neurons of like effect find the same ones.",
        "Other methods find other neurons that have a like effect.",
        rules.methods_agree,
    ),
)


def outcomes(judged: list[Judgement]) -> Iterator[tuple[str, int]]:
    """How many claims hold, hold in part, and do not."""
    for outcome in ("holds", "in part", "does not hold"):
        yield outcome, sum(each.outcome == outcome for each in judged)


# Beside published numbers -----------------------------------------------------------------------------

# Numbers are about the same within this factor, and of one order of magnitude within that one.
_ALIKE, _ORDER = 1.5, 10**0.5
# From these factors on a change is not just stronger than another.
_MANY_TIMES, _ORDERS = 10, 1000
# A control that does at least this share of it casts doubt.
_MUCH = 0.5


def compare_published(
    ours: Measurement | None,
    published: PublishedValue | Range,
    controls: Sequence[tuple[str, Measurement]] = (),
) -> str:
    """A plain verdict on our number beside a published one, and beside its own controls, by name."""
    if ours is None:
        return NOT_MEASURED
    if isinstance(published, Range):
        place = (
            "below" if ours.value < published.low else "above" if ours.value > published.high else "within"
        )
        return f"{place} the published range" + _doubt(ours, controls)
    signed = published.unit in ("change", "difference")
    verdict = _compare_signed(ours, published) if signed else _compare_sizes(ours, published)
    return verdict if verdict.startswith("not") else verdict + _doubt(ours, controls)


def _compare_signed(ours: Measurement, published: PublishedValue) -> str:
    if not (ours.above_zero or ours.below_zero):
        return "not reproduced: no significant change"
    if (ours.value > 0) != (published.value > 0):
        return "not reproduced: the opposite sign"
    ratio = abs(ours.value / published.value)
    if ratio >= _ORDERS:
        return "same sign, many orders of magnitude larger: not comparable"
    if ratio >= _MANY_TIMES:
        return f"same sign, {ratio:,.0f} times as large"
    size = "stronger" if ratio > _ALIKE else "weaker" if ratio < 1 / _ALIKE else "about as strong"
    return f"same sign, {size}"


def _compare_sizes(ours: Measurement, published: PublishedValue) -> str:
    if in_unit(ours.value, published.unit, published.digits) == published.number:
        return "the same number"
    if published.value == 0 or ours.value <= 0:
        return "not reproduced: none here" if ours.value <= 0 else "not reproduced: some here"
    ratio = ours.value / published.value
    if 1 / _ALIKE <= ratio <= _ALIKE:
        return "about the same"
    if 1 / _ORDER <= ratio <= _ORDER:
        return f"same order of magnitude, {'more' if ratio > 1 else 'less'}"
    times = f"{ratio:,.0f} times as much" if ratio > 1 else f"1/{1 / ratio:,.0f} of it"
    return f"another order of magnitude ({times}); not comparable: another model"


def _doubt(ours: Measurement, controls: Sequence[tuple[str, Measurement]]) -> str:
    if not controls or ours.value == 0:
        return ""
    name, control = max(controls, key=lambda each: each[1].value / ours.value)
    share = control.value / ours.value
    return f", but a control does {share:.0%} of it ({name})" if share >= _MUCH else ""
