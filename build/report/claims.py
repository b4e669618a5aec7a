"""What the thesis says, claim by claim, and what an atlas's numbers say to it. Nothing here is a result.

    judged = judge(found)                        # every claim that was measured, in the order of CLAIMS
    strongest(judged)                            # the one that speaks most against the thesis, or None
    compare(ours, PAPER["suppress"])             # "same sign, stronger"

1. *Against.* Each claim gives one number from 0 to 1: how much of what it says is missing, or how much of the
   effect a control has, too. 0 is all as claimed; 1 is nothing left of it.
2. *Outcome.* Below `HOLDS` the claim holds; below `IN_PART` in part; from there on it does not.
3. *Verdict.* A published value beside ours: sign first, then size, then whether a control does as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from build.report.findings import Findings
from build.report.numbers import NOT_MEASURED, Estimate, in_unit
from build.report.paper_values import CLAIMED_LOSS, Published
from build.report.studies import METHOD_NAMES, METHODS

HOLDS, IN_PART = 0.1, 0.5
RULE = (
    "Each claim is turned into one number from 0 to 1 by a fixed rule: how much of the effect a control has, "
    "too, or how much of what is claimed is missing. Below 0.1 the claim **holds**, below 0.5 it holds "
    "**in part**, from 0.5 on it **does not hold**. The strongest finding against the thesis is the claim "
    "with the largest number."
)


@dataclass(frozen=True)
class Judgement:
    """What the numbers say to a claim. against: see the module; detail: the numbers, with n."""

    claim: Claim
    against: float
    detail: str

    @property
    def outcome(self) -> str:
        """'holds', 'in part' or 'does not hold'."""
        return "holds" if self.against < HOLDS else "in part" if self.against < IN_PART else "does not hold"


@dataclass(frozen=True)
class Claim:
    """One claim of the thesis, the words for its failing, and the rule that judges it.

    rule gives None where the atlas does not have the numbers, else (against, numbers in words).
    """

    name: str
    says: str
    fails: str
    rule: Callable[[Findings], tuple[float, str] | None]


def judge(found: Findings) -> list[Judgement]:
    """Every claim that this atlas has numbers for."""
    result = []
    for claim in CLAIMS:
        judged = claim.rule(found)
        if judged is not None:
            against, detail = judged
            result.append(Judgement(claim, min(1.0, max(0.0, against)), detail))
    return result


def strongest(judged: list[Judgement]) -> Judgement | None:
    """The claim that speaks most against the thesis; of equals, the earlier one. None where all hold."""
    failing = [each for each in judged if each.outcome != "holds"]
    return max(failing, key=lambda each: each.against, default=None)


# 1. Suppress and amplify -----------------------------------------------------------------------------


def _held_out(found: Findings, intervention: str, group: str) -> Estimate | None:
    if found.effects is None:
        return None
    return found.effects.of(intervention, group, "held-out", found.effects.facts)


def _suppress_lowers(found: Findings) -> tuple[float, str] | None:
    own = _held_out(found, "suppress", "own")
    if own is None:
        return None
    return (0.0 if own.below_zero else 1.0), f"{own.full()} on held-out prompts"


def _amplify_raises(found: Findings) -> tuple[float, str] | None:
    own = _held_out(found, "amplify", "own")
    if own is None:
        return None
    return (0.0 if own.above_zero else 1.0), f"{own.full()} on held-out prompts"


def _control(intervention: str, group: str) -> Callable[[Findings], tuple[float, str] | None]:
    def rule(found: Findings) -> tuple[float, str] | None:
        own, control = (_held_out(found, intervention, each) for each in ("own", group))
        sign = -1 if intervention == "suppress" else 1
        # Where its own neurons do not do what is claimed, there is nothing to compare a control with.
        if own is None or control is None or own.value * sign <= 0:
            return None
        # Unrelated facts are to stay as they are: there either direction is harm.
        moved = abs(control.value) if group == "unrelated" else control.value * sign
        return moved / abs(own.value), f"{control.full()}; its own neurons {own.number()}"

    return rule


def _answer_changes(found: Findings) -> tuple[float, str] | None:
    if found.effects is None:
        return None
    changed = found.effects.top_changed("suppress", "own", "held-out", found.effects.facts)
    if changed is None:
        return None
    return 1 - changed.value, f"the likeliest token changes on {changed.full()}, held-out ones"


# 2. Update -------------------------------------------------------------------------------------------


def _edits(rule: Callable[[Findings], tuple[float, str] | None]):
    return lambda found: None if found.edits is None else rule(found)


@_edits
def _edit_succeeds(found: Findings) -> tuple[float, str] | None:
    success = found.edits.of_group("own").success
    return (
        None if success is None else (1 - success.value, f"the new answer comes first for {success.full()}")
    )


@_edits
def _edit_random(found: Findings) -> tuple[float, str] | None:
    own, random = found.edits.of_group("own"), found.edits.of_group("random")
    if random is None or own.success is None or random.success is None or own.success.value == 0:
        return None
    ratio = random.success.value / own.success.value
    return ratio, f"random neurons succeed for {random.success.full()}, its own for {own.success.number()}"


@_edits
def _edit_paraphrase(found: Findings) -> tuple[float, str] | None:
    scores = found.edits.of_group("own")
    if scores.success is None or scores.paraphrase is None or scores.success.value == 0:
        return None
    return (
        1 - scores.paraphrase.value / scores.success.value,
        f"on other wordings {scores.paraphrase.full()}, on the one it is judged by {scores.success.number()}",
    )


def _edit_keeps(kind: str) -> Callable[[Findings], tuple[float, str] | None]:
    @_edits
    def rule(found: Findings) -> tuple[float, str] | None:
        kept = getattr(found.edits.of_group("own"), f"{kind}_kept")
        return None if kept is None else (1 - kept.value, f"{kept.full()} of right answers stay")

    return rule


# 3. Erase --------------------------------------------------------------------------------------------


def _erase_loses(found: Findings) -> tuple[float, str] | None:
    lost = None if found.erasures is None else found.erasures.lost["own", "own"]
    if lost is None:
        return None
    least = CLAIMED_LOSS[0]
    return (1 - lost.value / least, f"it loses {lost.full()} of its right answers")


def _erase_spares(group: str, asked: str) -> Callable[[Findings], tuple[float, str] | None]:
    def rule(found: Findings) -> tuple[float, str] | None:
        if found.erasures is None:
            return None
        own, other = found.erasures.lost["own", "own"], found.erasures.lost[group, asked]
        if own is None or other is None or own.value <= 0:
            return None
        who = "other relations lose" if asked == "others" else "with random neurons it loses"
        return other.value / own.value, f"{who} {other.full()}, it {own.number()}"

    return rule


# 4. What activates them ------------------------------------------------------------------------------


def _context(context: str) -> Callable[[Findings], tuple[float, str] | None]:
    def rule(found: Findings) -> tuple[float, str] | None:
        if found.contexts is None:
            return None
        stated = found.contexts.relative.get(("fact", "own"))
        other = found.contexts.relative.get((context, "own"))
        if stated is None or other is None or stated.value <= 0:
            return None
        return other.value / stated.value, f"{other.full()}, where the fact is asked for {stated.number()}"

    return rule


# 5. Statistics ---------------------------------------------------------------------------------------


def _upper_layers(found: Findings) -> tuple[float, str] | None:
    statistics = found.statistics
    if statistics.upper is None:
        return None
    n = len(statistics.layers)
    return (
        1 - statistics.upper.value,
        f"the upper {statistics.n_upper} of {n} layers hold {statistics.upper.full()}",
    )


def _exclusive(found: Findings) -> tuple[float, str] | None:
    within, across = found.statistics.within, found.statistics.across
    if within is None or across is None or within.value == 0:
        return None
    return (
        across.value / within.value,
        f"two facts of different relations share {across.full()} neurons, of one relation {within.number()}",
    )


def _no_hub(found: Findings) -> tuple[float, str] | None:
    commonest = found.statistics.commonest
    if commonest is None:
        return None
    return commonest.value, f"`{found.statistics.commonest_neuron}` is in the set of {commonest.full()}"


def _identical(found: Findings) -> tuple[float, str] | None:
    same = found.statistics.identical
    return None if same is None else (same.value, f"{same.full()} have the very set of another fact")


def _same_answer(found: Findings) -> tuple[float, str] | None:
    same, other = found.statistics.same_object, found.statistics.other_object
    if same is None or other is None or same.value == 0 or found.statistics.neurons is None:
        return None
    neurons = found.statistics.neurons
    return (
        same.value / neurons.value,
        f"two facts of a relation with one answer share {same.full()}; a fact has {neurons.number()}",
    )


# 6. Thesis checks ------------------------------------------------------------------------------------


def _stable(found: Findings) -> tuple[float, str] | None:
    same = None if found.stability is None else found.stability.same
    return None if same is None else (1 - same.value, f"the Jaccard index of the halves is {same.full()}")


def _stable_specific(group: str) -> Callable[[Findings], tuple[float, str] | None]:
    def rule(found: Findings) -> tuple[float, str] | None:
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


def _stable_effect(found: Findings) -> tuple[float, str] | None:
    if found.stability is None:
        return None
    fall, other = found.stability.fall, found.stability.fall_held_out
    if fall is None or other is None or fall.value >= 0:
        return None
    return 1 - other.value / fall.value, f"{other.full()}, those of the same half {fall.number()}"


def _methods_agree(found: Findings) -> tuple[float, str] | None:
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
        if theirs.suppressed.value / ours.suppressed.value >= IN_PART:
            apart.append((theirs.overlap.value, method, theirs))
    if not apart:
        return None
    overlap, method, theirs = min(apart, key=lambda each: each[:2])
    return 1 - overlap, (
        f"{METHOD_NAMES[method]} lowers the answer by {theirs.suppressed.number()}, integrated gradients by "
        f"{ours.suppressed.number()}; the Jaccard index of their neurons is {theirs.overlap.full()}"
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "suppress",
        "Suppressing a fact's neurons lowers its answer's probability, on other wordings, too.",
        "Suppressing a fact's neurons does not lower its answer's probability on other wordings.",
        _suppress_lowers,
    ),
    Claim(
        "suppress-random",
        "As many random neurons of the same layers do nothing like it.",
        "Suppressing as many random neurons does much of the same.",
        _control("suppress", "random"),
    ),
    Claim(
        "suppress-matched",
        "As many neurons that are about as active do nothing like it.",
        "Suppressing as many neurons that are about as active does much of the same.",
        _control("suppress", "matched"),
    ),
    Claim(
        "suppress-baseline",
        "The most active neurons, the paper's baseline, do nothing like it.",
        "Suppressing the most active neurons, the paper's baseline, does much of the same.",
        _control("suppress", "baseline"),
    ),
    Claim(
        "suppress-unrelated",
        "Suppressing a fact's neurons leaves unrelated facts as they are.",
        "Suppressing a fact's neurons moves unrelated facts, too.",
        _control("suppress", "unrelated"),
    ),
    Claim(
        "answer",
        "Without a fact's neurons the model says something else.",
        "Without a fact's neurons the model often says the same as before.",
        _answer_changes,
    ),
    Claim(
        "amplify",
        "Amplifying a fact's neurons raises its answer's probability.",
        "Amplifying a fact's neurons does not raise its answer's probability.",
        _amplify_raises,
    ),
    *(
        Claim(f"amplify-{group}", holds, fails, _control("amplify", group))
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
        _edit_succeeds,
    ),
    Claim(
        "edit-random",
        "The same edit of random neurons fails.",
        "The same edit of random neurons succeeds, too.",
        _edit_random,
    ),
    Claim(
        "edit-paraphrase",
        "The new answer also comes on other wordings.",
        "The new answer often does not come on other wordings.",
        _edit_paraphrase,
    ),
    Claim(
        "edit-same",
        "An edit leaves the other facts of its relation as they are.",
        "An edit takes other facts of its relation along.",
        _edit_keeps("same"),
    ),
    Claim(
        "edit-other",
        "An edit leaves the facts of other relations as they are.",
        "An edit takes facts of other relations along.",
        _edit_keeps("other"),
    ),
    Claim(
        "erase",
        "Erasing a relation's 20 most frequent neurons takes 40 % or more of its answers away.",
        "Erasing a relation's 20 most frequent neurons takes less than 40 % of its answers away.",
        _erase_loses,
    ),
    Claim(
        "erase-others",
        "Erasing a relation harms the others little.",
        "Erasing a relation harms the others, too.",
        _erase_spares("own", "others"),
    ),
    Claim(
        "erase-random",
        "Erasing as many random neurons does nothing like it.",
        "Erasing as many random neurons does much of the same.",
        _erase_spares("random", "own"),
    ),
    *(
        Claim(f"active-{context}", holds, fails, _context(context))
        for context, holds, fails in (
            (
                "subject",
                "A fact's neurons are silent where only its subject is mentioned.",
                "A fact's neurons are active where only its subject is mentioned, too.",
            ),
            (
                "relation",
                "A fact's neurons are silent where the same is asked of another subject.",
                "A fact's neurons are active where the same is asked of another subject, too.",
            ),
            (
                "random",
                "A fact's neurons are silent on prompts that have nothing to do with it.",
                "A fact's neurons are active on prompts that have nothing to do with it, too.",
            ),
        )
    ),
    Claim(
        "layers",
        "The neurons lie in the upper layers.",
        "Many of the neurons do not lie in the upper layers.",
        _upper_layers,
    ),
    Claim(
        "exclusive",
        "Facts of different relations share hardly any neurons.",
        "Facts of different relations share neurons, too.",
        _exclusive,
    ),
    Claim(
        "hub",
        "No neuron is everybody's.",
        "One neuron belongs to a large part of all facts.",
        _no_hub,
    ),
    Claim(
        "answer-shared",
        "A fact's neurons are its own, not its answer's.",
        "Facts of a relation with the same answer share a large part of their neurons.",
        _same_answer,
    ),
    Claim(
        "identical",
        "No two facts have the same neurons.",
        "Different facts have the same neurons.",
        _identical,
    ),
    Claim(
        "stable",
        "The other half of a fact's templates finds the same neurons.",
        "The other half of a fact's templates finds other neurons.",
        _stable,
    ),
    Claim(
        "stable-relation",
        "It finds them rather than those of another fact of the relation.",
        "It finds nearly as many of another fact's of the relation.",
        _stable_specific("relation"),
    ),
    Claim(
        "stable-random",
        "It finds them rather than those of an unrelated fact.",
        "It finds nearly as many of an unrelated fact's.",
        _stable_specific("random"),
    ),
    Claim(
        "stable-effect",
        "Neurons that other templates found lower the answer as much.",
        "Neurons that other templates found lower the answer less.",
        _stable_effect,
    ),
    Claim(
        "methods",
        "Other methods that find neurons of like effect find the same ones.",
        "Other methods find other neurons that have a like effect.",
        _methods_agree,
    ),
)


# 3. Verdicts -----------------------------------------------------------------------------------------

_ALIKE, _ORDER = 1.5, 10**0.5


def compare(ours: Estimate | None, published: Published, control: Estimate | None = None) -> str:
    """A plain verdict on our number beside a published one, and beside its own control."""
    if ours is None:
        return NOT_MEASURED
    signed = published.unit in ("change", "difference")
    verdict = _compare_signed(ours, published) if signed else _compare_sizes(ours, published)
    return verdict if verdict.startswith("not") else verdict + _doubt(ours, control)


def _compare_signed(ours: Estimate, published: Published) -> str:
    if not (ours.above_zero or ours.below_zero):
        return "not reproduced: no change that could be told from none"
    if (ours.value > 0) != (published.value > 0):
        return "not reproduced: the opposite sign"
    ratio = abs(ours.value / published.value)
    size = "stronger" if ratio > _ALIKE else "weaker" if ratio < 1 / _ALIKE else "about as strong"
    return f"same sign, {size}"


def _compare_sizes(ours: Estimate, published: Published) -> str:
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


def _doubt(ours: Estimate, control: Estimate | None) -> str:
    if control is None or ours.value == 0 or control.value / ours.value < IN_PART:
        return ""
    return ", but the control does at least half as much"


def outcomes(judged: list[Judgement]) -> Iterator[tuple[str, int]]:
    """How many claims hold, hold in part, and do not."""
    for outcome in ("holds", "in part", "does not hold"):
        yield outcome, sum(each.outcome == outcome for each in judged)
