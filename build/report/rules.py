"""How much an atlas's numbers speak against each claim: one rule a claim, the same for every atlas.

    suppress_lowers(found).against               # 0 is all as claimed, 1 is nothing left of it

A rule gives a sentence where the claim does not apply to an atlas, and None where it has no numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from build.report.findings import Findings
from build.report.numbers import Measurement, in_unit
from build.report.paper_values import CLAIMED_LOSS
from build.report.samples import METHOD_NAMES


@dataclass(frozen=True)
class Assessment:
    """How much speaks against a claim, the numbers in words, and the n that the least of them counts."""

    against: float
    words: str
    n: int


def assess(against: float, words: str, *numbers: Measurement) -> Assessment:
    return Assessment(against, words, min(number.n or 0 for number in numbers))


RuleResult = Assessment | str | None
Rule = Callable[[Findings], RuleResult]

# A change of the answer's probability that is smaller than this is not all that is claimed.
LEAST_CHANGE = 0.1
# Neurons that are at least this share as active as the fact's own are about as active.
ALIKE = 0.8
# A method whose neurons have at least this share of the effect, on the same facts, has a like effect.
LIKE = 0.8


# 1. Suppress and amplify -----------------------------------------------------------------------------


def _held_out(found: Findings, intervention: str, group: str) -> Measurement | None:
    if found.effects is None:
        return None
    return found.effects.of(intervention, group, "held-out", found.effects.facts)


def _activity(found: Findings, intervention: str, group: str) -> float | None:
    if found.effects is None:
        return None
    return found.effects.activity(intervention, group, "held-out", found.effects.facts)


def suppress_lowers(found: Findings) -> RuleResult:
    own = _held_out(found, "suppress", "own")
    if own is None:
        return None
    missing = _missing(-own.value) if own.below_zero else 1.0
    return assess(missing, f"{own.full()} on held-out prompts", own)


def amplify_raises(found: Findings) -> RuleResult:
    own = _held_out(found, "amplify", "own")
    if own is None:
        return None
    missing = _missing(own.value) if own.above_zero else 1.0
    return assess(missing, f"{own.full()} on held-out prompts", own)


def _missing(change: float) -> float:
    """How much of the least change that is asked for is missing."""
    return max(0.0, 1 - change / LEAST_CHANGE)


def control(intervention: str, group: str) -> Rule:
    def rule(found: Findings) -> RuleResult:
        own, control = (_held_out(found, intervention, each) for each in ("own", group))
        active = _activity(found, intervention, group)
        sign = -1 if intervention == "suppress" else 1
        if own is None or control is None:
            return None
        if not (own.below_zero if sign < 0 else own.above_zero):
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
        # Unrelated facts are to stay as they are: there either direction is harm.
        moved = abs(control.value) if group == "unrelated" else control.value * sign
        words = f"{control.full()}; its own neurons {own.number()}"
        if active is not None and group != "unrelated":
            words += f"; {active:.2f} × as active as those"
        return assess(moved / abs(own.value), words, own, control)

    return rule


def answer_changes(found: Findings) -> RuleResult:
    if found.effects is None:
        return None
    changed = found.effects.top_changed("suppress", "own", "held-out", found.effects.facts)
    if changed is None:
        return None
    return assess(
        1 - changed.value, f"the likeliest token changes on {changed.full()}, held-out ones", changed
    )


# 2. Update -------------------------------------------------------------------------------------------


def _edits(rule: Rule) -> Rule:
    """The rule where an atlas has edits of facts' own neurons."""

    def checked(found: Findings) -> RuleResult:
        return None if found.edits is None or found.edits.of_group("own") is None else rule(found)

    return checked


@_edits
def edit_succeeds(found: Findings) -> RuleResult:
    success = found.edits.of_group("own").success
    if success is None:
        return None
    return assess(1 - success.value, f"the new answer comes first for {success.full()}", success)


@_edits
def edit_random(found: Findings) -> RuleResult:
    own, random = found.edits.of_group("own"), found.edits.of_group("random")
    if random is None or own.success is None or random.success is None or own.success.value == 0:
        return None
    return assess(
        random.success.value / own.success.value,
        f"random neurons succeed for {random.success.full()}, its own for {own.success.number()}",
        own.success,
        random.success,
    )


@_edits
def edit_paraphrase(found: Findings) -> RuleResult:
    scores = found.edits.of_group("own")
    if scores.success is None or scores.paraphrase is None or scores.success.value == 0:
        return None
    return assess(
        1 - scores.paraphrase.value / scores.success.value,
        f"on other wordings {scores.paraphrase.full()}, on the one it is judged by {scores.success.number()}",
        scores.paraphrase,
    )


@_edits
def edit_symmetric(found: Findings) -> RuleResult:
    """Of the inverse prompts that the model answered before: how many it answers anew."""
    scores = found.edits.of_group("own")
    if scores.symmetry_before is None:
        return None
    turned = scores.symmetry
    if turned is None:
        return (
            "the inverse relation was not answered before either: its own answer came first on "
            f"{scores.symmetry_before.full()}"
        )
    return assess(
        1 - turned.value, f"it does for {turned.full()}, of those it answered rightly before", turned
    )


def edit_keeps(kind: str) -> Rule:
    """What own edits keep, beside what random ones do; only where the edit itself does something."""

    @_edits
    def rule(found: Findings) -> RuleResult:
        own, random = (found.edits.of_group(group) for group in ("own", "random"))
        kept = getattr(own, f"{kind}_kept")
        if own.success is None or kept is None:
            return None
        beside = None if random is None else random.success
        if not (own.success.above_zero if beside is None else _clearly_more(own.success, beside)):
            words = "nothing" if beside is None else beside.text()
            return (
                f"the edit succeeds for {own.success.text()}, not clearly more than with random ones: {words}"
            )
        control = None if random is None else getattr(random, f"{kind}_kept")
        if control is None or control.value == 0:
            return assess(1 - kept.value, f"{kept.full()} of right answers stay", kept)
        words = f"{kept.full()} of right answers stay, with random neurons {control.number()}"
        return assess(1 - kept.value / control.value, words, kept, control)

    return rule


def _clearly_more(one: Measurement, other: Measurement) -> bool:
    """Whether the intervals lie apart."""
    low = one.value if one.low is None else one.low
    return low > (other.value if other.high is None else other.high)


# 3. Erase --------------------------------------------------------------------------------------------


def erase_loses(found: Findings) -> RuleResult:
    lost = None if found.erasures is None else found.erasures.lost["own", "own"]
    if lost is None:
        return None
    return assess(1 - lost.value / CLAIMED_LOSS.low, f"it loses {lost.full()} of its right answers", lost)


def erase_spares(group: str, asked: str) -> Rule:
    def rule(found: Findings) -> RuleResult:
        if found.erasures is None:
            return None
        own, other = found.erasures.lost["own", "own"], found.erasures.lost[group, asked]
        if own is None or other is None:
            return None
        if not own.above_zero:
            return f"the relation itself loses no significant share: {own.full()}"
        who = "other relations lose" if asked == "others" else "with random neurons it loses"
        return assess(
            other.value / own.value, f"{who} {other.full()}, with its own {own.number()}", own, other
        )

    return rule


# 4. What activates them ------------------------------------------------------------------------------


def context(context: str) -> Rule:
    def rule(found: Findings) -> RuleResult:
        if found.contexts is None:
            return None
        stated = found.contexts.relative.get(("fact", "own"))
        other = found.contexts.relative.get((context, "own"))
        if stated is None or other is None or stated.value <= 0:
            return None
        words = f"{other.full()}, where the fact is asked for {stated.number()}"
        return assess(other.value / stated.value, words, stated, other)

    return rule


def falls_silent(found: Findings) -> RuleResult:
    """Of the way from asked for to its subject mentioned only: how far random neurons go, too."""
    if found.contexts is None:
        return None
    falls = []
    for group in ("own", "random"):
        stated, mentioned = (found.contexts.relative.get((each, group)) for each in ("fact", "subject"))
        if stated is None or mentioned is None or stated.value <= 0:
            return None
        falls.append(1 - mentioned.value / stated.value)
    own, random = falls
    if own <= 0:
        return "its own neurons are no less active there, so there is nothing to compare a control with"
    return assess(
        random / own,
        f"where only its subject is mentioned, random neurons lose {in_unit(random, 'share')} of their "
        f"activation, its own {in_unit(own, 'share')} ({stated.counted()})",
        stated,
    )


# 5. Statistics ---------------------------------------------------------------------------------------


def upper_layers(found: Findings) -> RuleResult:
    statistics = found.statistics
    if statistics.upper is None:
        return None
    n = len(statistics.layers)
    return assess(
        1 - statistics.upper.value,
        f"the upper {statistics.n_upper} of {n} layers hold {statistics.upper.full()}",
        statistics.upper,
    )


def exclusive(found: Findings) -> RuleResult:
    within, across = found.statistics.within, found.statistics.across
    if within is None or across is None or within.value == 0:
        return None
    return assess(
        across.value / within.value,
        f"two facts of different relations share {across.full()} neurons, of one relation {within.number()}",
        across,
    )


def no_hub(found: Findings) -> RuleResult:
    commonest = found.statistics.commonest
    if commonest is None:
        return None
    words = f"`{found.statistics.commonest_neuron}` is in the set of {commonest.full()}"
    return assess(commonest.value, words, commonest)


def identical(found: Findings) -> RuleResult:
    same = found.statistics.identical
    return (
        None
        if same is None
        else assess(same.value, f"{same.full()} have exactly another fact's neurons", same)
    )


def same_answer(found: Findings) -> RuleResult:
    same, other = found.statistics.same_object, found.statistics.other_object
    if same is None or other is None or same.value == 0 or found.statistics.neurons is None:
        return None
    neurons = found.statistics.neurons
    return assess(
        same.value / neurons.value,
        f"two facts of a relation with one answer share {same.full()}; a fact has {neurons.number()}",
        same,
    )


# 6. Thesis checks ------------------------------------------------------------------------------------


def stable(found: Findings) -> RuleResult:
    same = None if found.stability is None else found.stability.same
    if same is None:
        return None
    return assess(1 - same.value, f"the Jaccard index of the halves is {same.full()}", same)


def stable_specific(group: str) -> Rule:
    def rule(found: Findings) -> RuleResult:
        if found.stability is None:
            return None
        same, other = found.stability.same, getattr(found.stability, group)
        if same is None or other is None or same.value == 0:
            return None
        words = f"Jaccard index {other.full()}, the fact's own halves {same.number()}"
        return assess(other.value / same.value, words, same, other)

    return rule


def stable_effect(found: Findings) -> RuleResult:
    if found.stability is None:
        return None
    fall, other = found.stability.fall, found.stability.fall_held_out
    if fall is None or other is None or fall.value >= 0:
        return None
    words = f"{other.full()}, those of the same half {fall.number()}"
    return assess(1 - other.value / fall.value, words, fall, other)


def methods_agree(found: Findings) -> RuleResult:
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
    return assess(
        1 - overlap,
        f"suppressed, those of {METHOD_NAMES[method]} change the answer by {theirs.suppressed.number()}, "
        f"those of integrated gradients by {theirs.gradients.number()} on the same facts; their Jaccard "
        f"index is {theirs.overlap.full()}",
        theirs.overlap,
    )
