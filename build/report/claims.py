"""The claims of the thesis, and how an atlas's numbers judge each. The module holds no result.

    judged = judge(found)                        # every claim that was measured, in the order of CLAIMS
    strongest(judged)                            # the one that speaks most against the thesis, or None

1. *Against.* Each claim has a rule, the same for every atlas, that gives one number from 0 to 1: how much of
   what the claim says is missing, or how much of the effect a control has, too. 0 is all as claimed; 1 is
   nothing left of it.
2. *Outcome.* Below `HOLDS` the claim holds; below `IN_PART` in part; from there on it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from build.report.findings import Findings
from build.report.numbers import Measurement, in_unit
from build.report.paper_values import CLAIMED_LOSS
from build.report.samples import METHOD_NAMES

HOLDS, IN_PART = 0.1, 0.5
FEWEST = 20
# A change of the answer's probability that is smaller than this is not all that is claimed.
LEAST_CHANGE = 0.1
# Neurons that are at least this share as active as the fact's own are about as active.
ALIKE = 0.8
# A method whose neurons have at least this share of the effect, on the same facts, has a like effect.
LIKE = 0.8
RULE = (
    "Each claim is turned into one number from 0 to 1 by a fixed rule: how much of the effect a control has, "
    "too, or how much of what is claimed is missing. Below 0.1 the claim **holds**, below 0.5 it holds "
    "**in part**, from 0.5 on it **does not hold**. A change of the answer's probability counts in full from "
    f"{in_unit(LEAST_CHANGE, 'share', 0)} on, a smaller one in proportion. The strongest finding "
    f"against the thesis is the claim with the largest number, of those that count at least {FEWEST} "
    "facts, edits or relations."
)

RuleResult = tuple[float, str, *tuple[Measurement, ...]] | str | None
"""How much speaks against a claim, the numbers in words, and the numbers whose least n counts; a sentence
where the claim does not apply to an atlas; None where an atlas has no numbers for it."""


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
    """One claim of the thesis, the words for its failing, and the rule that judges it.

    rule: takes the findings and the numbers at the paths `needs` (`Findings.number`).
    """

    name: str
    says: str
    fails: str
    needs: tuple[tuple[Any, ...], ...]
    rule: Callable[..., RuleResult]

    def judge(self, found: Findings) -> Judgement | str | None:
        """The judgement; a sentence where the claim does not apply; None where it was not measured."""
        numbers = [found.number(*path) for path in self.needs]
        if any(number is None for number in numbers):
            return None
        try:
            result = self.rule(found, *numbers)
        except ZeroDivisionError:  # a share of nothing says nothing
            return None
        if result is None or isinstance(result, str):
            return result
        against, words, *counted = result
        least = min(number.n or 0 for number in counted)
        return Judgement(self, round(min(1.0, max(0.0, against)), 2), words, least)


def judge(found: Findings) -> list[Judgement]:
    """Every claim that this atlas has numbers for."""
    return [each for claim in CLAIMS if isinstance(each := claim.judge(found), Judgement)]


def strongest(judged: list[Judgement]) -> Judgement | None:
    """The claim that speaks most against the thesis; of equals, the earlier one. None where all hold.

    Claims that count fewer than `FEWEST` are passed over, unless there are no others.
    """
    failing = [each for each in judged if each.outcome != "holds"]
    failing = [each for each in failing if each.n >= FEWEST] or failing
    return max(failing, key=lambda each: each.against, default=None)


def outcomes(judged: list[Judgement]) -> Iterator[tuple[str, int]]:
    """How many claims hold, hold in part, and do not."""
    for outcome in ("holds", "in part", "does not hold"):
        yield outcome, sum(each.outcome == outcome for each in judged)


# 1. Suppress and amplify -----------------------------------------------------------------------------


def _has_effect(intervention: str, own: Measurement) -> bool:
    """Whether the whole interval has the sign that is claimed: suppressing lowers, amplifying raises."""
    return own.below_zero if intervention == "suppress" else own.above_zero


def _changes(intervention: str, says: str, fails: str) -> Claim:
    def rule(found: Findings, own: Measurement) -> RuleResult:
        missing = 1 - abs(own.value) / LEAST_CHANGE if _has_effect(intervention, own) else 1.0
        return missing, f"{own.full()} on held-out prompts", own

    return Claim(intervention, says, fails, (("effects.held_out", (intervention, "own")),), rule)


def _control(intervention: str, group: str, says: str, fails: str) -> Claim:
    def rule(found: Findings, own: Measurement, control: Measurement) -> RuleResult:
        active = found.effects.activity(intervention, group, "held-out", found.effects.facts)
        if not _has_effect(intervention, own):
            return "its own neurons have no such effect, so a control has nothing to be compared with"
        if abs(own.value) < LEAST_CHANGE:
            return (
                f"its own neurons have little effect ({own.number()}), too little to compare a control with"
            )
        if group == "matched" and active is not None and active < ALIKE:
            return (
                f"the closest match is {active:.2f} × as active as its own neurons, which are their "
                "layers' most active: no neuron as active is left"
            )
        words = f"{control.full()}; its own neurons {own.number()}"
        if group == "unrelated":  # they are to stay as they are: there either direction is harm
            return abs(control.value / own.value), words, own, control
        if active is not None:
            words += f"; {active:.2f} × as active as those"
        return control.value / own.value, words, own, control

    needs = tuple(("effects.held_out", (intervention, each)) for each in ("own", group))
    return Claim(f"{intervention}-{group}", says, fails, needs, rule)


def _controls(intervention: str, verb: str, nothing: str, same: str) -> Iterator[Claim]:
    for group, neurons, of in (
        ("random", "as many random neurons", " of the same layers" if intervention == "suppress" else ""),
        ("matched", "as many neurons that are about as active", ""),
        ("baseline", "the most active neurons, the paper's baseline,", ""),
    ):
        says, fails = f"{verb} {neurons}{of} {nothing}.", f"{verb} {neurons} {same}."
        yield _control(intervention, group, says, fails)
    yield _control(
        intervention,
        "unrelated",
        f"{verb} a fact's neurons leaves unrelated facts as they are.",
        f"{verb} a fact's neurons moves unrelated facts, too.",
    )


_EFFECTS = (
    _changes(
        "suppress",
        "Suppressing a fact's neurons lowers its answer's probability, on other wordings, too.",
        "Suppressing a fact's neurons does not lower its answer's probability on other wordings.",
    ),
    *_controls("suppress", "Suppressing", "has little effect", "does much of the same"),
    Claim(
        "answer",
        "Without a fact's neurons the model says something else.",
        "Without a fact's neurons the model often says the same as before.",
        (("effects.answer_changes",),),
        lambda found, changed: (
            1 - changed.value,
            f"the likeliest token changes on {changed.full()}, held-out ones",
            changed,
        ),
    ),
    _changes(
        "amplify",
        "Amplifying a fact's neurons raises its answer's probability.",
        "Amplifying a fact's neurons does not raise its answer's probability.",
    ),
    *_controls("amplify", "Amplifying", "raises nothing", "raises it, too"),
)


# 2. Update -------------------------------------------------------------------------------------------

_SUCCESS = ("edits.judged", "own", "success")


def _turned(found: Findings, before: Measurement) -> RuleResult:
    """Of the inverse prompts that the model answered before: how many it answers anew."""
    turned = found.number("edits.judged", "own", "symmetry")
    if turned is None:
        return (
            "the inverse relation was not answered before either: its own answer came first on "
            f"{before.full()}"
        )
    return 1 - turned.value, f"it does for {turned.full()}, of those it answered rightly before", turned


def _edit_keeps(kind: str, says: str, fails: str) -> Claim:
    """What own edits keep, beside what random ones do; only where the edit itself does something."""

    def rule(found: Findings, success: Measurement, kept: Measurement) -> RuleResult:
        beside = found.number("edits.judged", "random", "success")
        if not (success.above_zero if beside is None else _clearly_more(success, beside)):
            words = "nothing" if beside is None else beside.text()
            return f"the edit succeeds for {success.text()}, not clearly more than with random ones: {words}"
        control = found.number("edits.judged", "random", f"{kind}_kept")
        words = f"{kept.full()} of right answers stay"
        if control is None or control.value == 0:
            return 1 - kept.value, words, kept
        return (
            1 - kept.value / control.value,
            f"{words}, with random neurons {control.number()}",
            kept,
            control,
        )

    return Claim(f"edit-{kind}", says, fails, (_SUCCESS, ("edits.judged", "own", f"{kind}_kept")), rule)


def _clearly_more(one: Measurement, other: Measurement) -> bool:
    """Whether the intervals lie apart."""
    low = one.value if one.low is None else one.low
    return low > (other.value if other.high is None else other.high)


_EDITS = (
    Claim(
        "edit",
        "Rewriting a fact's neurons makes the model give the new answer.",
        "Rewriting a fact's neurons often does not make the model give the new answer.",
        (_SUCCESS,),
        lambda found, success: (
            1 - success.value,
            f"the new answer comes first for {success.full()}",
            success,
        ),
    ),
    Claim(
        "edit-random",
        "The same edit of random neurons does not succeed.",
        "The same edit of random neurons succeeds, too.",
        (_SUCCESS, ("edits.judged", "random", "success")),
        lambda found, own, random: (
            random.value / own.value,
            f"random neurons succeed for {random.full()}, its own for {own.number()}",
            own,
            random,
        ),
    ),
    Claim(
        "edit-paraphrase",
        "After an edit, the new answer also comes on other wordings.",
        "After an edit, the new answer often does not come on other wordings.",
        (_SUCCESS, ("edits.judged", "own", "paraphrase")),
        lambda found, success, other: (
            1 - other.value / success.value,
            f"on other wordings {other.full()}, on the one it is judged by {success.number()}",
            other,
        ),
    ),
    Claim(
        "edit-symmetry",
        "After an edit, the inverse relation answers accordingly.",
        "After an edit, the inverse relation often does not answer accordingly.",
        (("edits.judged", "own", "symmetry_before"),),
        _turned,
    ),
    _edit_keeps(
        "alike",
        "An edit takes no more facts with the same answer along than one of random neurons.",
        "An edit takes other facts with the same answer along: what was edited is the answer's.",
    ),
    *(
        _edit_keeps(
            kind,
            f"An edit takes no more facts of {relations} along than one of random neurons.",
            f"An edit takes more facts of {relations} along than one of random neurons.",
        )
        for kind, relations in (("same", "its relation"), ("other", "other relations"))
    ),
)


# 3. Erase --------------------------------------------------------------------------------------------

_LOST = ("erasures.lost", ("own", "own"))


def _erase_spares(name: str, group: str, asked: str, who: str, says: str, fails: str) -> Claim:
    def rule(found: Findings, own: Measurement, other: Measurement) -> RuleResult:
        if not own.above_zero:
            return f"the relation itself loses no significant share: {own.full()}"
        words = f"{who} {other.full()}, with its own {own.number()}"
        return other.value / own.value, words, own, other

    return Claim(name, says, fails, (_LOST, ("erasures.lost", (group, asked))), rule)


_ERASURES = (
    Claim(
        "erase",
        "Erasing a relation's 20 most frequent neurons takes 40 % or more of its answers away.",
        "Erasing a relation's 20 most frequent neurons takes less than 40 % of its answers away.",
        (_LOST,),
        lambda found, lost: (
            1 - lost.value / CLAIMED_LOSS.low,
            f"it loses {lost.full()} of its right answers",
            lost,
        ),
    ),
    _erase_spares(
        "erase-others",
        "own",
        "others",
        "other relations lose",
        "Erasing a relation harms the others little.",
        "Erasing a relation harms the others, too.",
    ),
    _erase_spares(
        "erase-random",
        "random",
        "own",
        "with random neurons it loses",
        "Erasing as many random neurons takes few of its answers away.",
        "Erasing as many random neurons takes much of the same away.",
    ),
)


# 4. What activates them ------------------------------------------------------------------------------


def _less_active(found: Findings, stated: Measurement, other: Measurement) -> RuleResult:
    if stated.value <= 0:
        return None
    words = f"{other.full()}, where the fact is asked for {stated.number()}"
    return other.value / stated.value, words, stated, other


def _falls_silent(found: Findings, *numbers: Measurement) -> RuleResult:
    """Of the way from asked for to its subject mentioned only: how far random neurons go, too."""
    stated, mentioned, random_stated, random_mentioned = numbers
    if stated.value <= 0 or random_stated.value <= 0:
        return None
    own, random = 1 - mentioned.value / stated.value, 1 - random_mentioned.value / random_stated.value
    if own <= 0:
        return "its own neurons are no less active there, so there is nothing to compare a control with"
    words = (
        f"where only its subject is mentioned, random neurons lose {in_unit(random, 'share')} of their "
        f"activation, its own {in_unit(own, 'share')} ({random_stated.counted()})"
    )
    return random / own, words, random_stated


_CONTEXTS = (
    *(
        Claim(
            f"active-{context}",
            f"A fact's neurons are at most a tenth as active {where}.",
            f"A fact's neurons are active {where}, too.",
            (("contexts.relative", ("fact", "own")), ("contexts.relative", (context, "own"))),
            _less_active,
        )
        for context, where in (
            ("subject", "where only its subject is mentioned"),
            ("relation", "where the same is asked of another subject"),
            ("random", "on prompts that have nothing to do with it"),
        )
    ),
    Claim(
        "active-control",
        "Random neurons do not lose activation in the same way where only the subject is mentioned.",
        "Random neurons lose activation in much the same way where only the subject is mentioned.",
        tuple(
            ("contexts.relative", (each, group))
            for group in ("own", "random")
            for each in ("fact", "subject")
        ),
        _falls_silent,
    ),
)


# 5. Statistics ---------------------------------------------------------------------------------------

_STATISTICS = (
    Claim(
        "layers",
        "The neurons lie in the upper layers.",
        "Many of the neurons do not lie in the upper layers.",
        (("statistics.upper",),),
        lambda found, upper: (
            1 - upper.value,
            f"the upper {found.statistics.n_upper} of {len(found.statistics.layers)} layers hold "
            f"{upper.full()}",
            upper,
        ),
    ),
    Claim(
        "exclusive",
        "Facts of different relations share hardly any neurons.",
        "Facts of different relations share neurons, too.",
        (("statistics.within",), ("statistics.across",)),
        lambda found, within, across: (
            across.value / within.value,
            f"two facts of different relations share {across.full()} neurons, of one relation "
            f"{within.number()}",
            across,
        ),
    ),
    Claim(
        "hub",
        "No neuron belongs to a large part of all facts.",
        "One neuron belongs to a large part of all facts.",
        (("statistics.commonest",),),
        lambda found, commonest: (
            commonest.value,
            f"`{found.statistics.commonest_neuron}` is in the set of {commonest.full()}",
            commonest,
        ),
    ),
    Claim(
        "answer-shared",
        "A fact's neurons are its own, not its answer's.",
        "Facts of a relation with the same answer share a large part of their neurons.",
        (("statistics.same_object",), ("statistics.neurons",), ("statistics.other_object",)),
        lambda found, same, neurons, _: (
            (
                same.value / neurons.value,
                f"two facts of a relation with one answer share {same.full()}; a fact has {neurons.number()}",
                same,
            )
            if same.value
            else None
        ),
    ),
    Claim(
        "identical",
        "Hardly any two facts have the same neurons.",
        "Many facts have exactly the neurons of another fact.",
        (("statistics.identical",),),
        lambda found, same: (same.value, f"{same.full()} have exactly another fact's neurons", same),
    ),
)


# 6. Thesis checks ------------------------------------------------------------------------------------


def _stable_effect(found: Findings, fall: Measurement, other: Measurement) -> RuleResult:
    if fall.value >= 0:
        return None
    words = f"{other.full()}, those of the same half {fall.number()}"
    return 1 - other.value / fall.value, words, fall, other


def _methods_agree(found: Findings) -> RuleResult:
    """Of the methods whose neurons do at least `LIKE` of it on the same facts, the one that shares least."""
    if found.methods is None:
        return None
    apart, measured = [], False
    for method in list(METHOD_NAMES)[1:]:
        theirs = found.methods.rows.get((method, "count"))
        if theirs is None or None in (theirs.suppressed, theirs.overlap, theirs.gradients):
            continue
        if theirs.gradients.value >= 0:
            continue
        measured = True
        if theirs.suppressed.value / theirs.gradients.value >= LIKE:
            apart.append((theirs.overlap.value, method, theirs))
    if not apart:
        return (
            f"no other method's neurons have {in_unit(LIKE, 'share', 0)} of the effect" if measured else None
        )
    overlap, method, theirs = min(apart, key=lambda each: each[:2])
    words = (
        f"suppressed, those of {METHOD_NAMES[method]} change the answer by {theirs.suppressed.number()}, "
        f"those of integrated gradients by {theirs.gradients.number()} on the same facts; their Jaccard "
        f"index is {theirs.overlap.full()}"
    )
    return 1 - overlap, words, theirs.overlap


_CHECKS = (
    Claim(
        "stable",
        "The other half of a fact's templates finds the same neurons.",
        "The other half of a fact's templates finds other neurons.",
        (("stability.same",),),
        lambda found, same: (1 - same.value, f"the Jaccard index of the halves is {same.full()}", same),
    ),
    *(
        Claim(
            f"stable-{group}",
            f"Other wordings find a fact's own neurons rather than {whose}.",
            f"Other wordings of a fact find much of {fails} neurons, too.",
            (("stability.same",), (f"stability.{group}",)),
            lambda found, same, other: (
                other.value / same.value,
                f"Jaccard index {other.full()}, the fact's own halves {same.number()}",
                same,
                other,
            ),
        )
        for group, whose, fails in (
            ("relation", "another fact's of the relation", "another fact's"),
            ("random", "an unrelated fact's", "an unrelated fact's"),
        )
    ),
    Claim(
        "stable-effect",
        "Neurons that other templates found lower the answer as much.",
        "Neurons that other templates found lower the answer less.",
        (("stability.fall",), ("stability.fall_held_out",)),
        _stable_effect,
    ),
    Claim(
        "methods",
        "Other methods that find neurons of like effect find the same ones.",
        "Other methods find other neurons that have a like effect.",
        (),
        _methods_agree,
    ),
)

CLAIMS = (*_EFFECTS, *_EDITS, *_ERASURES, *_CONTEXTS, *_STATISTICS, *_CHECKS)
