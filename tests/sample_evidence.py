"""Made-up outcomes of experiments, for the synthetic atlases: rows of the tables that `build evaluate` adds.

    tables |= effect_tables(facts, prompts, seed=0)
    tables |= evidence_tables(facts, prompts, pairs, n_layers=4, seed=0)

Own neurons matter more than their controls, and many more than few. `effect_summaries`, the mode 'stored' of
`statistics` and all counts are computed. Facts are chosen as an evaluation samples them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, groupby

import numpy as np

MOST_FACTS = 600  # as many as the study that takes most
GROUPS = (
    *("own", "random", "matched", "contribution_matched", "baseline"),
    *("same_relation_same_answer", "same_answer", "same_relation", "unrelated"),
)
FACTORS = {
    "suppress": dict(zip(GROUPS, (0.3, 0.99, 0.95, 0.94, 0.85, 0.45, 0.6, 0.8, 0.95), strict=True)),
    "amplify": dict(zip(GROUPS, (1.4, 1.01, 1.05, 1.06, 1.1, 1.3, 1.2, 1.1, 1.02), strict=True)),
}
# How active the changed neurons are, as a multiple of the fact's own.
ACTIVE = dict.fromkeys(GROUPS, 1.0) | {
    "random": 0.1,
    "matched": 0.8,
    "contribution_matched": 0.7,
    "baseline": 1.5,
}
PARTS = {"fall": 0.7, "own": 0.2, "answer": 0.3, "relation": 0.15, "general": 0.05}
# The sample has no relation and its inverse; this one stands in for the symmetry of edits.
INVERSE = {"P36": "P30"}
DOSES = (1, 2, 5, 10, 20, 50, 100, 200)
OTHERS_DOSE = 20
METHODS = {
    "integrated_gradients": 0.3,
    "activation": 0.85,
    "gradient_x_activation": 0.5,
    "log_prob_increase": 0.7,
}
PLANTED = {"integrated_gradients": 0.4, "activation": 0.1, "random": 0.01}
ENDS = {"": 0.0, "_low": -0.01, "_high": 0.01}
GRID = [(t, p) for t in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5) for p in (0.25, 0.5, 0.75, 1.0)]

Rows = list[dict]
Pair = tuple[str, str, int, int]


def sampled(facts: Sequence[dict], count: int = MOST_FACTS) -> Rows:
    """At most `count` facts that have neurons: relations take turns, known facts come first."""
    place: Counter[tuple] = Counter()
    turns = []
    for fact in sorted(facts, key=lambda fact: fact["fact_id"]):
        if fact["n_neurons"]:
            pool = (not fact["known"], fact["relation_id"])
            turns.append((pool[0], place[pool], pool[1], fact))
            place[pool] += 1
    return [fact for *_, fact in sorted(turns, key=lambda turn: turn[:3])[:count]]


# Effects ---------------------------------------------------------------------------------------------


def effect_tables(facts: Sequence[dict], prompts: Mapping[str, Rows], *, seed: int) -> dict[str, Rows]:
    """`effects` of these facts on all their prompts (those of a fact by its id), and `effect_summaries`."""
    random = np.random.default_rng([seed, 1])
    relations = sorted({fact["relation_id"] for fact in facts})
    known_of = {
        relation: sampled([f for f in facts if f["relation_id"] == relation]) for relation in relations
    }
    rows = []
    for fact in facts:
        asked = [(group, prompt) for prompt in prompts[fact["fact_id"]] for group in GROUPS[:5]]
        place = relations.index(fact["relation_id"])
        following = known_of[relations[(place + 1) % len(relations)]] if len(relations) > 1 else []
        near = [other for other in known_of[fact["relation_id"]] if other is not fact]
        for others, same, group in (
            (near, True, "same_relation_same_answer"),
            (following, True, "same_answer"),
            (near, False, "same_relation"),
            (following, False, "unrelated"),
        ):
            other = next((f for f in others if (f["object"] == fact["object"]) == same), None)
            if other is not None:
                asked += [(group, prompt) for prompt in prompts[other["fact_id"]] if prompt["held_out"]]
        for intervention, factors in FACTORS.items():
            for (group, prompt), jitter in zip(asked, random.uniform(0.9, 1.1, len(asked)), strict=True):
                before, rank = prompt["probability"], prompt["rank"]
                after = min(1.0, before * factors[group] * jitter) if fact["n_neurons"] else before
                rank_after = rank_of(after, before, rank)
                rows.append(
                    {
                        "fact_id": fact["fact_id"],
                        "prompt_fact_id": prompt["fact_id"],
                        "template_id": prompt["template_id"],
                        "intervention": intervention,
                        "group": group,
                        "held_out": prompt["held_out"],
                        "n_neurons": fact["n_neurons"],
                        "activity": 2.0 * ACTIVE[group],
                        "p_before": before,
                        "p_after": after,
                        "rank_before": rank,
                        "rank_after": rank_after,
                        "top_changed": (rank == 1) != (rank_after == 1),
                    }
                )
    return {
        "effects": rows,
        "effect_summaries": effect_summaries(facts, rows, seed=seed),
        "specificity": [
            {"relation_id": relation, "part": part, "value": value, "low": value - 0.04, "high": value + 0.04}
            | {"share": value / 0.7, "share_low": value / 0.7 - 0.05, "share_high": value / 0.7 + 0.05}
            | {"n_relations": len(relations) if relation == "all" else 1, "n_facts": 20, "n_prompts": 40}
            for relation in ("all", *relations)
            for part, value in PARTS.items()
        ],
    }


def control_neurons(pairs: Iterable[Pair], n_neurons: int) -> Rows:
    """As many of the same layers for each control: the facts' own, shifted."""
    return [
        {
            "fact_id": fact_id,
            "group": group,
            "draw": 1,
            "layer": layer,
            "neuron": (neuron + shift) % n_neurons,
        }
        for fact_id, _, layer, neuron in pairs
        for group, shift in (("random", 7), ("matched", 1), ("contribution_matched", 5), ("baseline", 3))
    ]


def rank_of(after: float, before: float, rank: int) -> int:
    """A rank that goes with a probability: first above 0.3, else lower the less is left."""
    if rank == 1:
        return 1 if after > 0.3 or after >= before else 3
    return max(1 if after > 0.3 else 2, round(rank * min(4.0, before / after))) if after > 0 else rank


def effect_summaries(facts: Sequence[dict], effects: Rows, *, seed: int) -> Rows:
    """The two ratios by relation and over relations, with intervals from facts drawn again."""
    about = {fact["fact_id"]: fact for fact in facts}
    sums: dict[tuple, dict[str, list]] = defaultdict(dict)
    for row in effects:
        if row["p_before"] > 0:
            change = row["p_after"] - row["p_before"]
            values = (
                1,
                row["p_before"],
                row["p_after"],
                change,
                change / row["p_before"],
                row["top_changed"],
            )
            known = about[row["prompt_fact_id"]]["known"]
            for which in ("all", "known" if known else "unknown"):
                templates = "held-out" if row["held_out"] else "discovery"
                key = (
                    row["intervention"],
                    row["group"],
                    templates,
                    which,
                    about[row["fact_id"]]["relation_id"],
                )
                total = sums[key].setdefault(row["fact_id"], [0] * 6)
                sums[key][row["fact_id"]] = [a + b for a, b in zip(total, values, strict=True)]
    rows = []
    for about_rows, keys in groupby(sorted(sums), key=lambda key: key[:4]):
        names = dict(zip(("intervention", "group", "templates", "facts"), about_rows, strict=True))
        of_relations, drawn_of = [], []
        for key in keys:
            values = np.array(list(sums[key].values()))  # (n_facts, 6)
            weights = np.random.default_rng(seed).multinomial(
                len(values), [1 / len(values)] * len(values), 200
            )
            drawn = weights @ values
            drawn_of.append((drawn[:, 3] / drawn[:, 1], drawn[:, 4] / drawn[:, 0]))
            n, before, after, change, ratio, top = values.sum(axis=0)
            of_relations.append(
                names
                | _summary(drawn_of[-1], change / before, ratio / n)
                | {
                    "relation_id": key[4],
                    "n_relations": 1,
                    "activity": ACTIVE[key[1]],
                    "n_facts": len(values),
                    "n_prompts": int(n),
                    "mean_before": before / n,
                    "mean_after": after / n,
                    "top_changed": top / n,
                }
            )
        rows += of_relations
        whole = {
            name: float(np.mean([row[name] for row in of_relations]))
            for name in (
                "mean_before",
                "mean_after",
                "top_changed",
                "activity",
                "paper_change",
                "replication_change",
            )
        }
        counts = {
            name: sum(row[name] for row in of_relations) for name in ("n_relations", "n_facts", "n_prompts")
        }
        intervals = _summary(
            np.mean(drawn_of, axis=0), whole.pop("paper_change"), whole.pop("replication_change")
        )
        rows.append(names | {"relation_id": "all"} | counts | whole | intervals)
    return rows


def _summary(drawn: Sequence[np.ndarray], paper: float, replication: float) -> dict[str, float]:
    row = {}
    for name, value, values in (("paper", paper, drawn[0]), ("replication", replication, drawn[1])):
        low, high = np.quantile(values, [0.025, 0.975])
        row |= {f"{name}_change": float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


# The other experiments -------------------------------------------------------------------------------


def evidence_tables(
    facts: Sequence[dict],
    prompts: Mapping[str, Rows],
    pairs: Sequence[Pair],
    *,
    n_layers: int,
    seed: int,
) -> dict[str, Rows]:
    """The tables beside `effects`.

    facts: all of the atlas; prompts: those of a fact by its id, of the `sampled` facts at least; pairs:
    (fact_id, relation_id, layer, neuron) of all knowledge neurons.
    """
    random = np.random.default_rng([seed, 2])
    chosen = sampled(facts)
    return {
        "lens": lens(chosen, prompts, n_layers),
        "generations": generations(chosen, prompts),
        "edits": edits(chosen, prompts, random),
        "erasures": erasures(facts, pairs, random),
        "contexts": contexts(chosen, prompts, random),
        "statistics": statistics(facts, pairs, n_layers),
        "stability": stability(chosen[:200], prompts, random),
        "subsets": subsets(chosen[:200], prompts, random),
        "methods": methods(chosen[:60], prompts, random),
        "synonymy": synonymy(chosen, prompts),
        "grammar": grammar(random),
        **planted(chosen[:12]),
    }


def planted(facts: Sequence[dict]) -> dict[str, Rows]:
    """Answers planted in 10 and 60 neurons in turn, every sixth one not learned; and means over them."""
    rows = []
    for place, fact in enumerate(facts):
        learned = place % 6 != 5
        for method, recall in PLANTED.items():
            found = {
                "recall": recall,
                "auc": 0.5 + recall / 2,
                "precision": recall,
                "p_found_suppressed": 0.1,
            }
            rows.append(
                {
                    "fact_id": fact["fact_id"],
                    "n_planted": (10, 60)[place % 2],
                    "method": method,
                    "answer": "Elsewhere",
                    "seed": 0,
                    "n_steps": 20,
                    "learned": learned,
                    "p_before": 0.001,
                    "p_after": 0.8 if learned else 0.1,
                    "share_first": float(learned),
                    "p_suppressed": 0.02,
                    **(found if learned else {}),
                }
            )
    rows.sort(key=lambda row: (row["fact_id"], row["n_planted"], row["method"]))
    summaries = []
    for size in (10, 60):
        for method, recall in sorted(PLANTED.items()):
            of = [row for row in rows if (row["n_planted"], row["method"]) == (size, method)]
            n = sum(row["learned"] for row in of)
            means = {"recall": recall, "precision": recall, "auc": 0.5 + recall / 2, "fall": 0.875}
            ends = {f"{name}{end}": mean + by for name, mean in means.items() for end, by in ENDS.items()}
            counts = {"n_plantings": n, "n_left_out": len(of) - n, "chance": size / 6000}
            summaries.append({"n_planted": size, "method": method, **counts, **ends})
    return {"planted": rows, "planted_summaries": summaries}


def lens(facts: Sequence[dict], prompts: Mapping[str, Rows], n_layers: int) -> Rows:
    """An answer that comes up from layer to layer, on each fact's first prompts, the second held out."""
    rows = []
    for fact in facts:
        for prompt in prompts[fact["fact_id"]][:2]:
            for layer in range(n_layers):
                sure = (layer + 1) / n_layers
                first = prompt["top_token"] if sure > 0.5 else f"early{layer}"
                guesses = [(first, prompt["top_probability"] * sure), ("a", 0.05), ("of", 0.03)]
                rows.append(
                    {
                        "fact_id": fact["fact_id"],
                        "template_id": prompt["template_id"],
                        "layer": layer,
                        "probability": prompt["probability"] * sure,
                        "rank": round(prompt["rank"] / sure),
                        "top": [{"token": token, "probability": p} for token, p in guesses],
                    }
                )
    return rows


def generations(facts: Sequence[dict], prompts: Mapping[str, Rows]) -> Rows:
    """Texts of the known facts: the answer, but without the fact's own neurons."""
    rows = []
    for fact in [each for each in facts if each["known"]]:
        said = f"{fact['object']}, and that is all there is to say."
        other = next(
            (
                each
                for each in facts
                if each["known"]
                and each["relation_id"] != fact["relation_id"]
                and each["object"] != fact["object"]
            ),
            None,
        )
        of_other = [] if other is None else [("unrelated", other, f"{other['object']}, as before.")]
        texts = [("unchanged", fact, said), ("own", fact, "a place that"), ("random", fact, said), *of_other]
        for group, asked, text in texts:
            rows.append(
                {
                    "fact_id": fact["fact_id"],
                    "prompt_fact_id": asked["fact_id"],
                    "template_id": _held_out(prompts, asked)[0]["template_id"],
                    "group": group,
                    "n_neurons": 0 if group == "unchanged" else fact["n_neurons"],
                    "text": f" {text}",
                }
            )
    return rows


def edits(facts: Sequence[dict], prompts: Mapping[str, Rows], random: np.random.Generator) -> Rows:
    """Up to ten edits a relation of facts the model knows, each with two strengths and four groups."""
    by_relation = defaultdict(list)
    for fact in facts:
        by_relation[fact["relation_id"]].append(fact)
    rows = []
    for relation, members in by_relation.items():
        for fact in [each for each in members if each["known"]][:10]:
            objects = sorted({each["object"] for each in members} - {fact["object"]})
            held_out = sorted(_held_out(prompts, fact), key=lambda prompt: prompt["rank"])
            if not objects or not held_out:
                continue
            new = objects[int(random.integers(len(objects)))]
            apart = [each for each in facts if each["object"] not in (fact["object"], new)]
            alike = [each for each in members if each["object"] == fact["object"] and each is not fact]
            asked = [("edited", held_out[0]), *(("paraphrase", prompt) for prompt in held_out[1:])]
            for kind, others, count in (
                ("same_object", alike, 5),
                ("same_relation", [each for each in apart if each["relation_id"] == relation], 5),
                ("other_relation", [each for each in apart if each["relation_id"] != relation], 5),
                ("symmetry", by_relation.get(INVERSE.get(relation), []), 1),
            ):
                drawn = random.choice(len(others), min(count, len(others)), replace=False) if others else []
                asked += [(kind, _held_out(prompts, others[int(place)])[0]) for place in drawn]
            few = max(1, fact["n_neurons"] - 1)  # without what many facts of the relation have
            for add, strength in ((8.0, 0.9), (2.0, 0.5)):
                for group in ("own", "all", "random", "random_all"):
                    taken = random.random() < (0.02 if group.startswith("random") else strength)
                    rows += [
                        {
                            "fact_id": fact["fact_id"],
                            "new_object": new,
                            "remove": 1.0,
                            "add": add,
                            "group": group,
                            "kind": kind,
                            "prompt_fact_id": prompt["fact_id"],
                            "template_id": prompt["template_id"],
                            "n_neurons": fact["n_neurons"] if group.endswith("all") else few,
                            **_edited(prompt, group, kind, taken, random),
                        }
                        for kind, prompt in asked
                        if group != "random_all" or kind == "edited"
                    ]
    return rows


def _edited(prompt: dict, group: str, kind: str, taken: bool, random: np.random.Generator) -> dict:
    """What an edit that took, or did not, does to a prompt."""
    likely = {
        "edited": 1.0,
        "paraphrase": 0.8,
        "symmetry": 0.05,
        "same_object": 0.4,
        "same_relation": 0.2,
        "other_relation": 0.03,
    }
    changes = taken and random.random() < likely[kind]
    own = group in ("own", "all")
    shift = 0.2 if changes else (0.8 if own else 0.98)
    before, rank = prompt["probability"], prompt["rank"]
    new_before = float(random.uniform(0.001, 0.02))
    old_after = before * shift
    new_after = float(random.uniform(0.4, 0.7)) if changes else new_before * (2 if own else 1)
    rank_new = int(random.integers(5, 60))
    new_is_asked = kind != "other_relation"
    return {
        "p_old_before": before,
        "p_old_after": old_after,
        "rank_old_before": rank,
        "rank_old_after": max(rank, 2) if changes else rank_of(old_after, before, rank),
        "p_new_before": new_before if new_is_asked else None,
        "p_new_after": new_after if new_is_asked else None,
        "rank_new_before": rank_new if new_is_asked else None,
        "rank_new_after": (1 if changes else rank_new) if new_is_asked else None,
        "top_changed": bool(changes),
    }


def erasures(facts: Sequence[dict], pairs: Sequence[Pair], random: np.random.Generator) -> Rows:
    """Every relation erased at every dose; the other relations are asked at one dose only."""
    available: dict[str, set] = defaultdict(set)
    for _, relation, layer, neuron in pairs:
        available[relation].add((layer, neuron))
    relations = {}
    for relation in sorted(available):
        members = [fact for fact in facts if fact["relation_id"] == relation][:25]
        known = sum(fact["known"] for fact in members) / len(members)
        mean = sum(fact["mean_probability"] for fact in members) / len(members)
        relations[relation] = (4 * len(members), known, math.exp(3 - 2 * mean), mean)
    rows = []
    for relation, neurons in available.items():
        doses = sorted({min(dose, len(neurons)) for dose in DOSES})
        for group in ("own", "random"):
            for dose in doses:
                for asked, (n_prompts, known, perplexity, mean) in relations.items():
                    if asked != relation and dose != min(OTHERS_DOSE, len(neurons)):
                        continue
                    harm = (1.0 if asked == relation else 0.12) * (1.0 if group == "own" else 0.08)
                    left = 1 - 0.7 * harm * dose / (dose + 12) * float(random.uniform(0.9, 1.1))
                    rows.append(
                        {
                            "relation_id": relation,
                            "group": group,
                            "n_neurons": dose,
                            "asked_relation_id": asked,
                            "n_prompts": n_prompts,
                            "accuracy_before": known,
                            "accuracy_after": known * left,
                            "perplexity_before": perplexity,
                            "perplexity_after": perplexity / left,
                            "mean_before": mean,
                            "mean_after": mean * left,
                        }
                    )
    return rows


def contexts(facts: Sequence[dict], prompts: Mapping[str, Rows], random: np.random.Generator) -> Rows:
    rows = []
    for fact in facts:
        n_held_out = len(_held_out(prompts, fact))
        for context, relative in (("fact", 0.95), ("subject", 0.5), ("relation", 0.7), ("random", 0.1)):
            for group, scale in (("own", 1.0), ("random", 0.15)):
                value = relative * scale * float(random.uniform(0.8, 1.2))
                rows.append(
                    {
                        "fact_id": fact["fact_id"],
                        "context": context,
                        "group": group,
                        "n_neurons": fact["n_neurons"],
                        "n_prompts": n_held_out if context == "fact" else 3,
                        "activation": 1.8 * value,
                        "magnitude": 2.0 * value + 0.05,
                        "relative": value,
                    }
                )
    return rows


def stability(facts: Sequence[dict], prompts: Mapping[str, Rows], random: np.random.Generator) -> Rows:
    rows = []
    for fact in facts:
        found = fact["n_neurons"]
        held_out = max(0, found + int(random.integers(-1, 2)))
        shared = int(random.integers(0, min(found, held_out) + 1))
        jaccard = shared / (found + held_out - shared)
        before = _mean([p for p in prompts[fact["fact_id"]] if not p["held_out"]])
        rows.append(
            {
                "fact_id": fact["fact_id"],
                "n_discovery": found,
                "n_held_out": held_out,
                "shared": shared,
                "jaccard": jaccard,
                "jaccard_relation": 0.4 * jaccard,
                "jaccard_random": 0.05 * jaccard,
                "p_before": before,
                "p_discovery": before * 0.3,
                "p_held_out": before * (1 - 0.6 * jaccard),
            }
        )
    return rows


def subsets(facts: Sequence[dict], prompts: Mapping[str, Rows], random: np.random.Generator) -> Rows:
    """All neurons of a fact take 70 % away; in the order of their scores, the first take most of it."""
    rows = []
    for fact in facts:
        n, before = fact["n_neurons"], _mean(_held_out(prompts, fact))
        for order, power in (("score", float(random.uniform(0.3, 0.6))), ("random", 1.0)):
            rows += [
                {
                    "fact_id": fact["fact_id"],
                    "order": order,
                    "k": k,
                    "n_neurons": n,
                    "p_before": before,
                    "p_after": before * (1 - 0.7 * (k / n) ** power),
                }
                for k in range(1, n + 1)
            ]
    return rows


def synonymy(facts: Sequence[dict], prompts: Mapping[str, Rows]) -> Rows:
    """Edits of a few known facts, which hold for the subject, and for a synonym in every second fact."""
    rows = []
    for number, fact in enumerate([each for each in facts if each["known"]][:12]):
        for prompt in _held_out(prompts, fact):
            for add in (2.0, 8.0):
                for group in ("own", "all", "random"):
                    for asked, holds in (
                        (fact["subject"], True),
                        (f"old {fact['subject']}", number % 2 == 0),
                    ):
                        taken = holds and group != "random"
                        rows.append(
                            {
                                "fact_id": fact["fact_id"],
                                "new_object": "Atlantis",
                                "remove": 1.0,
                                "add": add,
                                "group": group,
                                "asked": asked,
                                "synonym": asked != fact["subject"],
                                "template_id": prompt["template_id"],
                                "n_neurons": fact["n_neurons"],
                                "p_old_before": 0.6,
                                "p_old_after": 0.1 if taken else 0.6,
                                "rank_old_before": 1,
                                "rank_old_after": 4 if taken else 1,
                                "p_new_before": 0.01,
                                "p_new_after": 0.7 if taken else 0.02,
                                "rank_new_before": 20,
                                "rank_new_after": 1 if taken else 12,
                                "top_changed": taken,
                            }
                        )
    return rows


def grammar(random: np.random.Generator) -> Rows:
    """Two phenomena of twelve known pairs, of two wordings each, whose own neurons take two thirds away."""
    rows = []
    for phenomenon, good, bad in (
        ("agreement-simple", "are", "is"),
        ("anaphor-gender", "herself", "himself"),
    ):
        for number in range(12):
            for place in range(2):
                row = {
                    "phenomenon": phenomenon,
                    "pair_id": f"{phenomenon}:{number}",
                    "template_id": f"{phenomenon}.{place}",
                    "held_out": place == 1,
                    "text": f"Wording {place}: word {number} [Y]",
                    "good": good,
                    "bad": bad,
                    "known": True,
                    "p_good_before": float(random.uniform(0.2, 0.6)),
                    "rank_good_before": 1 + number % 2,
                    "p_bad_before": 0.01,
                    "rank_bad_before": 9,
                }
                shared = {"n_neurons": 4, "n_shared": 2, "shared_by_chance": 1.0}
                after = dict.fromkeys(("p_good_after", "p_bad_after", "rank_good_after", "rank_bad_after"))
                rows.append(row | shared | after | {"intervention": "none", "add": 0.0, "group": "none"})
                for intervention, add in (("suppress", 0.0), ("edit", 2.0), ("edit", 8.0)) if place else ():
                    for group in ("own", "random"):
                        left = float(random.uniform(0.2, 0.4)) if group == "own" else 0.98
                        flips = group == "own" and intervention == "edit" and number % 3 > 0
                        rows.append(
                            row
                            | {"intervention": intervention, "add": add, "group": group, "n_neurons": 4}
                            | {"p_good_after": row["p_good_before"] * left, "rank_good_after": 3}
                            | {"p_bad_after": 0.5 if flips else 0.01, "rank_bad_after": 1 if flips else 9}
                        )
    return rows


def methods(facts: Sequence[dict], prompts: Mapping[str, Rows], random: np.random.Generator) -> Rows:
    rows = []
    for fact in facts:
        before = _mean(_held_out(prompts, fact))
        for mode, extra in (("count", 0), ("default", 0), ("paper", 2), ("replication", -1)):
            for method, factor in METHODS.items():
                same = method == "integrated_gradients"
                n = fact["n_neurons"] if mode == "count" else max(1, fact["n_neurons"] + extra)
                left = factor * float(random.uniform(0.9, 1.1))
                rows.append(
                    {
                        "fact_id": fact["fact_id"],
                        "method": method,
                        "mode": mode,
                        "n_neurons": n,
                        "shared": n if same else int(random.integers(0, n + 1)),
                        "p_before": before,
                        "p_suppressed": before * left,
                        "p_amplified": min(1.0, before * (1.5 - left / 2)),
                    }
                )
    return rows


def _held_out(prompts: Mapping[str, Rows], fact: dict) -> Rows:
    return [prompt for prompt in prompts[fact["fact_id"]] if prompt["held_out"]]


def _mean(prompts: Rows) -> float:
    return sum(prompt["probability"] for prompt in prompts) / len(prompts)


# Statistics ------------------------------------------------------------------------------------------


def statistics(facts: Sequence[dict], pairs: Sequence[Pair], n_layers: int) -> Rows:
    """What is stored, counted; other thresholds give fewer neurons the higher they are."""
    stored = _counted(facts, pairs, n_layers)
    rows = [{"mode": "stored", "threshold": 0.2, "share": 0.5, **stored}]
    for mode, t, p in [
        ("default", 0.2, 0.5),
        ("paper", 0.2, None),
        ("replication", 0.3, 0.3),
        *(("grid", t, p) for t, p in GRID),
    ]:
        scale = (0.2 / t) ** 0.8 * (0.5 / (0.6 if p is None else p)) ** 0.9
        empty = min(1.0, stored["n_empty"] / stored["n_facts"] / scale)
        row = dict(stored) | {
            "mode": mode,
            "threshold": t,
            "share": p,
            "n_empty": round(empty * stored["n_facts"]),
        }
        for name in ("mean_neurons", "median_neurons", "within", "across", "same_object", "other_object"):
            row[name] = None if stored[name] is None else stored[name] * scale
        row["most_neurons"] = round(stored["most_neurons"] * scale)
        rows.append(row)
    return rows


def _counted(facts: Sequence[dict], pairs: Iterable[Pair], n_layers: int) -> dict:
    sets: dict[str, set] = defaultdict(set)
    carried: dict[str, Counter] = defaultdict(Counter)  # relation → neuron → facts
    answers: dict[tuple[str, str], Counter] = defaultdict(Counter)  # relation, object → neuron → facts
    common: Counter = Counter()
    layers: Counter = Counter()
    object_of = {fact["fact_id"]: fact["object"] for fact in facts}
    for fact_id, relation, layer, neuron in pairs:
        sets[fact_id].add((layer, neuron))
        carried[relation][layer, neuron] += 1
        answers[relation, object_of[fact_id]][layer, neuron] += 1
        common[layer, neuron] += 1
        layers[layer] += 1
    size = Counter(fact["relation_id"] for fact in facts)
    answer_size = Counter((fact["relation_id"], fact["object"]) for fact in facts)

    def choose(counts: Iterable[int]) -> float:
        return sum(n * (n - 1) / 2 for n in counts)

    same_object, other_object = [], []
    for relation, n in size.items():
        of_relation = [key for key in answer_size if key[0] == relation]
        same = choose(answer_size[key] for key in of_relation)
        if 0 < same < choose([n]):
            shared = choose(carried[relation].values())
            shared_same = sum(choose(answers[key].values()) for key in of_relation)
            same_object.append(shared_same / same)
            other_object.append((shared - shared_same) / (choose([n]) - same))
    counts = sorted(len(sets.get(fact["fact_id"], ())) for fact in facts)
    sets_seen = Counter(frozenset(found) for found in sets.values())
    top = {neuron for neuron, _ in common.most_common(20)}
    return {
        "n_facts": len(counts),
        "n_empty": counts.count(0),
        "mean_neurons": sum(counts) / len(counts),
        "median_neurons": (counts[(len(counts) - 1) // 2] + counts[len(counts) // 2]) / 2,
        "most_neurons": counts[-1],
        "within": _average(choose(carried[r].values()) / choose([size[r]]) for r in size if size[r] > 1),
        "across": _average(
            sum(n * carried[b][neuron] for neuron, n in carried[a].items()) / (size[a] * size[b])
            for a, b in combinations(sorted(size), 2)
        ),
        "same_object": _average(same_object),
        "other_object": _average(other_object),
        "identical": sum(n for n in sets_seen.values() if n > 1) / max(1, len(sets)),
        "commonest": max(common.values(), default=0) / len(counts),
        "hubs": sum(not top.isdisjoint(found) for found in sets.values()) / len(counts),
        "layer_shares": [layers[layer] / max(1, layers.total()) for layer in range(n_layers)],
    }


def _average(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
