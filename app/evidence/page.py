"""Evidence: every claim of the thesis, judged in every atlas at hand, beside the paper.

1. *Summary.* What speaks against the thesis, what holds, what is undecided.
2. *One claim.* `?claim=` names it, else it is the first that speaks against: its picture, all its numbers.
3. *All claims.* A verdict for each model, and how it is read.

The claims, their numbers and verdicts are those of the report (`python -m build figures`).
"""

from functools import partial

import pandas as pd
import streamlit as st
from streamlit.column_config import TextColumn

from app.shared import address, layout, links
from app.shared import evidence as sentences
from app.shared.words import escape, seen
from atlas import claims
from atlas.charts import claims as claim_charts
from atlas.claims import Report, Row, Verdict
from atlas.claims.claim import Judged
from atlas.claims.registry import PAPER_LINK

_ROW = 35  # pixels


def main() -> None:
    st.title("Evidence", anchor=False)
    st.markdown(
        f"What [Dai et al. (2022)]({PAPER_LINK}) claim of knowledge neurons, or what the name implies, "
        "beside what was measured in the atlases at hand. Brackets hold 95 % intervals."
    )
    report = sentences.judged_report()
    if not report.models:
        layout.current_atlas()  # raises what is wrong
        return
    abouts = [f"{each.title}, {each.about}" for each in report.models if each.about]
    if abouts:
        st.caption(escape(f"{'; '.join(abouts)}."))
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
    st.markdown("\n".join(line for cell in row.cells for line in numbers_of(row, cell)))


def numbers_of(row: Row, cell: Judged) -> list[str]:
    """Every number of a claim in one model, as a list in markdown."""
    return [
        f"- **{escape(cell.measured.title)}**, {escape(row.claim.words)}: {escape(cell.text)}",
        *(f"  - {escape(words)}: {escape(number.text())}" for words, _, number in cell.reading.beside),
        *([f"  - {escape(cell.reading.note)}"] if cell.reading.note else []),
    ]


def show_verdicts(report: Report) -> None:
    st.subheader("Every claim", anchor=False)
    rows = [[row.claim.says, row.claim.paper, *(cell.text for cell in row.cells)] for row in report.rows]
    frame = pd.DataFrame(rows, columns=["claim", "paper", *(each.atlas_id for each in report.models)])
    models = {each.atlas_id: TextColumn(seen(each.title), width=260) for each in report.models}
    columns = {"claim": TextColumn("Claim", width=420), "paper": TextColumn("The paper", width=260), **models}
    height = _ROW * (len(frame) + 1) + 2
    st.dataframe(frame, hide_index=True, height=height, alt="Verdicts", column_config=columns)
    st.markdown(claims.HOW_JUDGED)
    st.page_link(links.ATLASES, label="How each atlas was made", query_params=links.here())


main()
