"""The claims of the thesis, judged by atlases: one source for the report, its page and the app.

    report = claims.judge([claims.measure(atlas) for atlas in atlases])
    for row in report.against: print(row.claim.says, [cell.text for cell in row.cells])

`estimate`: a number with its interval; `claim`: what a claim is and how it is judged; `reading`: numbers from
tables; `registry`: the claims themselves.
"""

from collections.abc import Sequence

from atlas.claims import claim
from atlas.claims.claim import AGAINST_FIRST, HOW_JUDGED, Measured, Report, Row, Verdict
from atlas.claims.registry import CLAIMS
from atlas.store.atlas import Atlas

__all__ = [
    "AGAINST_FIRST",
    "CLAIMS",
    "HOW_JUDGED",
    "Measured",
    "Report",
    "Row",
    "Verdict",
    "judge",
    "measure",
]


def measure(atlas: Atlas) -> Measured:
    """Every number of an atlas that the claims name."""
    return claim.measure(atlas, CLAIMS)


def judge(measured: Sequence[Measured]) -> Report:
    """The verdicts of all claims in all models, corrected together."""
    return claim.judge(measured, CLAIMS)
