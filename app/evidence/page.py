"""Evidence: every claim of the thesis, judged in every atlas at hand, beside the paper.

1. *Summary.* What speaks against the thesis, what holds, what is undecided.
2. *One claim.* `?claim=` names it, else it is the first that speaks against: its picture, all its numbers.
3. *All claims.* A verdict for each model, and how it is read.

The claims, their numbers and verdicts are those of the report (`python -m build figures`).
"""

from functools import partial

import pandas as pd
import streamlit as st

from app.shared import address, layout, links
from app.shared import evidence as sentences
from app.shared.words import escape
from atlas import claims
from atlas.charts import claims as claim_charts
from atlas.claims import Report, Verdict
from atlas.claims.registry import PAPER_LINK


def main() -> None:
    st.title("Evidence", anchor=False)
    st.markdown(
        f"What [Dai et al. (2022)]({PAPER_LINK}) claim of knowledge neurons, or what the name implies, "
        "beside what was measured in the atlases at hand. Brackets hold 95 % intervals."
    )
    report = sentences.judged_report()
    if not report.models:
        layout.nothing("There is no atlas to judge the claims by.")
        return
    show_summary(report)
    show_claim(report)
    show_verdicts(report)


def show_summary(report: Report) -> None:
    for verdict, heading, rows in (
        (Verdict.FAILS, "What speaks against the thesis", report.against),
        (Verdict.HOLDS, "What holds", report.with_verdict(Verdict.HOLDS)),
        (Verdict.UNDECIDED, "What is undecided", report.with_verdict(Verdict.UNDECIDED)),
        (Verdict.NOT_MEASURED, "What was not measured", report.unmeasured),
    ):
        if not rows:
            continue
        with st.expander(f"{heading} ({len(rows)})", expanded=verdict is Verdict.FAILS):
            if verdict is Verdict.FAILS:
                st.caption(claims.AGAINST_FIRST)
            st.markdown("\n".join(f"1. {sentences.say_claim(row, verdict)}" for row in rows))


def show_claim(report: Report) -> None:
    """The claim that the address names."""
    named = {row.claim.name: row for row in report.rows}
    chosen = address.choice(
        "One claim",
        "claim",
        {name: row.claim.says for name, row in named.items()},
        placeholder="Choose a claim; in view is the first of those above",
    )
    row = named[chosen] if chosen else (report.against or list(report.rows))[0]
    claim = row.claim
    st.subheader(escape(claim.says), anchor=False)
    st.markdown(
        escape(f"Threshold: {claim.bound}. Source: {claim.source}. The paper: {claim.paper}. {claim.how}")
    )
    drawn = claim_charts.claim_rows(row)
    if len(drawn):
        make = partial(claim_charts.claim_intervals, drawn, **claim_charts.claim_scale(claim))
        layout.draw_chart(make, "The claim's number in each model, with 95 % intervals")
    for cell in row.cells:
        if cell.reading.note:
            st.markdown(f"**{escape(cell.measured.title)}.** {escape(cell.reading.note)}")
    own = (claim.words, claim.paper, [cell.text for cell in row.cells])
    beside = [(words, "", numbers) for words, numbers in row.beside]
    st.table(_frame(report, "Number", [own, *beside]))


def show_verdicts(report: Report) -> None:
    st.subheader("Every claim", anchor=False)
    rows = [(row.claim.says, row.claim.paper, [cell.text for cell in row.cells]) for row in report.rows]
    st.table(_frame(report, "Claim", rows))
    st.markdown(claims.HOW_JUDGED)
    st.page_link(links.ATLASES, label="How each atlas was made", query_params=links.here())


def _frame(report: Report, head: str, rows: list[tuple[str, str, list[str]]]) -> pd.DataFrame:
    """Rows of words, what the paper has, and a text for each model, as markdown."""
    frame = pd.DataFrame([list(map(escape, (words, paper, *found))) for words, paper, found in rows])
    frame.columns = [head, "The paper", *(escape(each.title) for each in report.models)]
    return frame.set_index(head)


main()
