"""What was published, as data: the paper's values and the replication's, each with its place.

The paper: Dai, Dong, Hao, Sui, Chang, Wei: *Knowledge Neurons in Pretrained Transformers*, ACL 2022
(arXiv 2104.08696), BERT-base-cased over PARAREL. The replication: EleutherAI's `knowledge-neurons`,
bert-base-uncased over PARAREL; what it published is neurons, so its values are statistics of those.
"""

from __future__ import annotations

from dataclasses import dataclass

from build.report.numbers import in_unit

PAPER_MODEL = "BERT-base-cased over PARAREL"
REPLICATED = "bert-base-uncased"
REPLICATION_MODEL = f"{REPLICATED} over PARAREL"
PAPER_LINK = "https://arxiv.org/abs/2104.08696"
REPLICATION_LINK = "https://github.com/EleutherAI/knowledge-neurons"

# Of twelve layers, the replication's neurons lie in the upper five; the same part of any other model.
UPPER_LAYERS = 5 / 12


@dataclass(frozen=True)
class PublishedValue:
    """A published value: its unit (as in `numbers.Measurement`), where it stands, and its control's value.

    digits: behind the point, as published; None for the unit's own.
    """

    value: float
    unit: str
    source: str
    control: float | None = None
    control_name: str = ""
    detail: str = ""
    digits: int | None = None

    @property
    def number(self) -> str:
        """The value, to as many digits as it was published with."""
        return in_unit(self.value, self.unit, self.digits)

    def text(self) -> str:
        """The value as the report prints it, its control behind it."""
        lines = [f"**{self.number}**"]
        if self.detail:
            lines.append(self.detail)
        if self.control is not None:
            lines.append(f"{self.control_name}: {in_unit(self.control, self.unit, self.digits)}")
        return "\n".join([*lines, f"*{self.source}*"])


@dataclass(frozen=True)
class Range:
    """What was published of several relations at once: the smallest and the largest value."""

    low: float
    high: float
    unit: str
    source: str
    digits: int | None = None

    @property
    def number(self) -> str:
        return " to ".join(in_unit(each, self.unit, self.digits) for each in (self.low, self.high))

    def text(self) -> str:
        return f"**{self.number}**\n*{self.source}*"


_NEURONS = "its published neurons"

PAPER_VALUES: dict[str, PublishedValue] = {
    "suppress": PublishedValue(
        -0.2903, "change", "section 4.2, figure 3", -0.0147, "activation baseline", digits=2
    ),
    "amplify": PublishedValue(
        0.3117, "change", "section 4.2, figure 4", -0.0127, "activation baseline", digits=2
    ),
    "neurons": PublishedValue(4.13, "count", "section 4.1, table of statistics"),
    "within": PublishedValue(1.23, "count", "section 4.1, table of statistics"),
    "across": PublishedValue(0.09, "count", "section 4.1, table of statistics"),
    "edit_change": PublishedValue(0.485, "share", "section 5.1, table of edits", 0.047, "random neurons"),
    "edit_success": PublishedValue(0.344, "share", "section 5.1, table of edits", 0.0, "random neurons"),
    "perplexity_within": PublishedValue(8.4, "difference", "section 5.1, table of edits", digits=1),
    "perplexity_across": PublishedValue(7.2, "difference", "section 5.1, table of edits", digits=1),
    "erase_P19": PublishedValue(
        1.066, "change", "section 5.2, table of erased relations", detail="perplexity 1,450 → 2,996"
    ),
    "erase_P106": PublishedValue(
        1.282, "change", "section 5.2, table of erased relations", detail="perplexity 2,279 → 5,202"
    ),
}

# What a relation loses, in right answers, when its neurons are erased: the claim that is to be tested.
CLAIMED_LOSS = Range(0.4, 0.6, "share", "the claim in question", digits=0)

RANGES: dict[str, Range] = {
    "erase_others": Range(0.011, 0.101, "change", "section 5.2, table of erased relations"),
    "erase_lost": CLAIMED_LOSS,
}

REPLICATION_VALUES: dict[str, PublishedValue] = {
    "neurons": PublishedValue(11.04, "count", _NEURONS, detail="median 8, most 98"),
    "within": PublishedValue(3.22, "count", _NEURONS),
    "across": PublishedValue(0.38, "count", _NEURONS),
    "upper_layers": PublishedValue(0.94, "share", _NEURONS, detail="layers 7–11 of 0–11", digits=0),
    "commonest": PublishedValue(0.242, "share", _NEURONS, detail="`L10.N2484`"),
    "hubs": PublishedValue(0.914, "share", _NEURONS),
}


def paper(name: str) -> str:
    """The paper's value as the report prints it."""
    found = PAPER_VALUES.get(name) or RANGES.get(name)
    return found.text() if found else "no number"


# The replication measured these; its results files have the numbers.
_IN_RESULTS = {"suppress", "amplify"}


def replication(name: str) -> str:
    if name in _IN_RESULTS:
        return "in its results files"
    return REPLICATION_VALUES[name].text() if name in REPLICATION_VALUES else "not published"
