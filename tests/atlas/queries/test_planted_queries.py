"""The leaderboard of planted facts, beside the rows that it is made of."""

from __future__ import annotations

import pandas as pd
import pytest

from atlas.queries.planted import leaderboard, plantings
from atlas.store.atlas import Atlas
from tests.sample_atlas import sample_tables, write_sample_atlas

ROWS = pd.DataFrame(sample_tables()["planted"])


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return Atlas(write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample"))


def test_methods_come_by_recall_within_a_number_of_neurons(a):
    board = leaderboard(a)
    assert list(zip(board["n_planted"], board["method"], strict=True)) == [
        (size, method) for size in (10, 60) for method in ("integrated_gradients", "activation", "random")
    ]
    learned = (
        ROWS[ROWS["learned"] & (ROWS["n_planted"] == 10)].groupby("method")["recall"].agg(["mean", "size"])
    )
    for row in board[board["n_planted"] == 10].itertuples():
        assert row.recall == pytest.approx(learned.loc[row.method, "mean"])
        assert row.n_plantings == learned.loc[row.method, "size"]
        assert row.recall_low < row.recall < row.recall_high


def test_plantings_are_counted_once_whatever_the_number_of_methods(a):
    for row in plantings(a).itertuples():
        of = ROWS[ROWS["n_planted"] == row.n_planted].drop_duplicates("fact_id")
        assert (row.n, row.n_learned) == (len(of), of["learned"].sum())
        assert row.n_unsaid == (of["share_first"] <= 0.5).sum()
        assert row.n_unsaid + row.n_elsewhere == row.n - row.n_learned
        assert row.p_after == pytest.approx(of.loc[of["learned"], "p_after"].mean())
