"""How much an atlas's numbers speak against each claim: one rule a claim, the same for every atlas.

    against, words = suppress_lowers(found)

A rule gives (against, the numbers in words): 0 is all as claimed, 1 is nothing left of it. It gives a
sentence where the claim does not apply to an atlas, and None where the atlas does not have the numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from build.report.findings import Findings
from build.report.numbers import Estimate, in_unit
from build.report.paper_values import CLAIMED_LOSS
from build.report.studies import METHOD_NAMES, METHODS

Said = tuple[float, str] | str | None
Rule = Callable[[Findings], Said]

# A method whose neurons have at least this share of the effect has a like effect.
_LIKE = 0.5


# 1. Suppress and amplify -----------------------------------------------------------------------------


def _held_out(found: Findings, intervention: str, group: str) -> Estimate | None:
    if found.effects is None:
        return None
    return found.effects.of(intervention, group, "held-out", found.effects.facts)


def suppress_lowers(found: Findings) -> Said:
    own = _held_out(found, "suppress", "own")
    if own is None:
        return None
    return (0.0 if own.below_zero else 1.0), f"{own.full()} on held-out prompts"


def amplify_raises(found: Findings) -> Said:
    own = _held_out(found, "amplify", "own")
    if own is None:
        return None
    return (0.0 if own.above_zero else 1.0), f"{own.full()} on held-out prompts"


def control(intervention: str, group: str) -> Rule:
    def rule(found: Findings) -> Said:
        own, control = (_held_out(found, intervention, each) for each in ("own", group))
        sign = -1 if intervention == "suppress" else 1
        if own is None or control is None:
            return None
        if not (own.below_zero if sign < 0 else own.above_zero):
            return "its own neurons do not do it, so there is nothing to compare a control with"
        # Unrelated facts are to stay as they are: there either direction is harm.
        moved = abs(control.value) if group == "unrelated" else control.value * sign
        return moved / abs(own.value), f"{control.full()}; its own neurons {own.number()}"

    return rule


def answer_changes(found: Findings) -> Said:
    if found.effects is None:
        return None
    changed = found.effects.top_changed("suppress", "own", "held-out", found.effects.facts)
    if changed is None:
        return None
    return 1 - changed.value, f"the likeliest token changes on {changed.full()}, held-out ones"


# 2. Update -------------------------------------------------------------------------------------------


def _edits(rule: Rule):
    return lambda found: None if found.edits is None else rule(found)


@_edits
def edit_succeeds(found: Findings) -> Said:
    success = found.edits.of_group("own").success
    return (
        None if success is None else (1 - success.value, f"the new answer comes first for {success.full()}")
    )


@_edits
def edit_random(found: Findings) -> Said:
    own, random = found.edits.of_group("own"), found.edits.of_group("random")
    if random is None or own.success is None or random.success is None or own.success.value == 0:
        return None
    ratio = random.success.value / own.success.value
    return ratio, f"random neurons succeed for {random.success.full()}, its own for {own.success.number()}"


@_edits
def edit_paraphrase(found: Findings) -> Said:
    scores = found.edits.of_group("own")
    if scores.success is None or scores.paraphrase is None or scores.success.value == 0:
        return None
    return (
        1 - scores.paraphrase.value / scores.success.value,
        f"on other wordings {scores.paraphrase.full()}, on the one it is judged by {scores.success.number()}",
    )


@_edits
def edit_symmetric(found: Findings) -> Said:
    turned = found.edits.of_group("own").symmetry
    return None if turned is None else (1 - turned.value, f"it does for {turned.full()}")


def edit_keeps(kind: str) -> Rule:
    @_edits
    def rule(found: Findings) -> Said:
        kept = getattr(found.edits.of_group("own"), f"{kind}_kept")
        return None if kept is None else (1 - kept.value, f"{kept.full()} of right answers stay")

    return rule


# 3. Erase --------------------------------------------------------------------------------------------


def erase_loses(found: Findings) -> Said:
    lost = None if found.erasures is None else found.erasures.lost["own", "own"]
    if lost is None:
        return None
    least = CLAIMED_LOSS.low
    return (1 - lost.value / least, f"it loses {lost.full()} of its right answers")


def erase_spares(group: str, asked: str) -> Rule:
    def rule(found: Findings) -> Said:
        if found.erasures is None:
            return None
        own, other = found.erasures.lost["own", "own"], found.erasures.lost[group, asked]
        if own is None or other is None:
            return None
        if not own.above_zero:
            return f"the relation itself loses nothing that could be told from none: {own.full()}"
        who = "other relations lose" if asked == "others" else "with random neurons it loses"
        return other.value / own.value, f"{who} {other.full()}, with its own {own.number()}"

    return rule


# 4. What activates them ------------------------------------------------------------------------------


def context(context: str) -> Rule:
    def rule(found: Findings) -> Said:
        if found.contexts is None:
            return None
        stated = found.contexts.relative.get(("fact", "own"))
        other = found.contexts.relative.get((context, "own"))
        if stated is None or other is None or stated.value <= 0:
            return None
        return other.value / stated.value, f"{other.full()}, where the fact is asked for {stated.number()}"

    return rule


def falls_silent(found: Findings) -> Said:
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
        return "its own neurons do not fall silent there, so there is nothing to compare a control with"
    detail = f"where only its subject is mentioned, random neurons lose {in_unit(random, 'share')} of their "
    return random / own, f"{detail}activation, its own {in_unit(own, 'share')} ({stated.counted()})"


# 5. Statistics ---------------------------------------------------------------------------------------


def upper_layers(found: Findings) -> Said:
    statistics = found.statistics
    if statistics.upper is None:
        return None
    n = len(statistics.layers)
    return (
        1 - statistics.upper.value,
        f"the upper {statistics.n_upper} of {n} layers hold {statistics.upper.full()}",
    )


def exclusive(found: Findings) -> Said:
    within, across = found.statistics.within, found.statistics.across
    if within is None or across is None or within.value == 0:
        return None
    return (
        across.value / within.value,
        f"two facts of different relations share {across.full()} neurons, of one relation {within.number()}",
    )


def no_hub(found: Findings) -> Said:
    commonest = found.statistics.commonest
    if commonest is None:
        return None
    return commonest.value, f"`{found.statistics.commonest_neuron}` is in the set of {commonest.full()}"


def identical(found: Findings) -> Said:
    same = found.statistics.identical
    return None if same is None else (same.value, f"{same.full()} have the very set of another fact")


def same_answer(found: Findings) -> Said:
    same, other = found.statistics.same_object, found.statistics.other_object
    if same is None or other is None or same.value == 0 or found.statistics.neurons is None:
        return None
    neurons = found.statistics.neurons
    return (
        same.value / neurons.value,
        f"two facts of a relation with one answer share {same.full()}; a fact has {neurons.number()}",
    )


# 6. Thesis checks ------------------------------------------------------------------------------------


def stable(found: Findings) -> Said:
    same = None if found.stability is None else found.stability.same
    return None if same is None else (1 - same.value, f"the Jaccard index of the halves is {same.full()}")


def stable_specific(group: str) -> Rule:
    def rule(found: Findings) -> Said:
        if found.stability is None:
            return None
        same, other = found.stability.same, getattr(found.stability, group)
        if same is None or other is None or same.value == 0:
            return None
        return (
            other.value / same.value,
            f"Jaccard index {other.full()}, the fact's own halves {same.number()}",
        )

    return rule


def stable_effect(found: Findings) -> Said:
    if found.stability is None:
        return None
    fall, other = found.stability.fall, found.stability.fall_held_out
    if fall is None or other is None or fall.value >= 0:
        return None
    return 1 - other.value / fall.value, f"{other.full()}, those of the same half {fall.number()}"


def methods_agree(found: Findings) -> Said:
    """Of the methods whose neurons do at least half as much, the one that shares least."""
    if found.methods is None:
        return None
    ours = found.methods.rows.get((METHODS[0], "count"))
    if ours is None or ours.suppressed is None or ours.suppressed.value >= 0:
        return None
    apart = []
    for method in METHODS[1:]:
        theirs = found.methods.rows.get((method, "count"))
        if theirs is None or theirs.suppressed is None or theirs.overlap is None:
            continue
        if theirs.suppressed.value / ours.suppressed.value >= _LIKE:
            apart.append((theirs.overlap.value, method, theirs))
    if not apart:
        return None
    overlap, method, theirs = min(apart, key=lambda each: each[:2])
    return 1 - overlap, (
        f"{METHOD_NAMES[method]} lowers the answer by {theirs.suppressed.number()}, integrated gradients by "
        f"{ours.suppressed.number()}; the Jaccard index of their neurons is {theirs.overlap.full()}"
    )
