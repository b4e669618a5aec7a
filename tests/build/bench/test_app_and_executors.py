"""What is asked of the app is there to be asked for, and Ray's overhead is counted as it is by hand."""

from __future__ import annotations

import pytest

import atlas
from atlas.errors import BuildError
from build.bench import executors


def test_every_kind_of_page_is_visited_each_time_for_something_else(sample):
    app = pytest.importorskip("build.bench.app", reason="needs what requirements-dev.txt lists")
    with atlas.open(sample) as opened:
        planned = app.plan_visits(opened, 2)
    assert {page for visits in planned.values() for page, _ in visits} == {
        *("", "search", "fact", "relation", "neuron", "compare", "sql", "atlases")
    }
    for name in ("Fact", "Neuron", "Relation", "Compare, facts", "SQL, a query"):
        assert len({tuple(parameters.items()) for _, parameters in planned[name]}) == 2


def test_an_attack_that_is_not_there_is_refused_before_the_app_is_served():
    load = pytest.importorskip("build.bench.load", reason="needs what requirements-dev.txt lists")
    with pytest.raises(BuildError, match="There is no attack 'flowers'"):
        load.time_visitors(1, 1, 1, ["flowers"], None, 0, None)


def test_rays_overhead_is_over_half_of_two_whole_builds():
    def turn(stages: float) -> dict[str, float]:
        return {"stages": stages, "rest": 1.0, "whole": stages + 1}

    rounds = [
        {executors.ONE: turn(one), executors.TWO: turn(two), executors.RAY: turn(ray)}
        for one, two, ray in ((12.0, 20.0, 11.0), (12.0, 20.0, 12.0), (12.0, 20.0, 20.0))
    ]
    found = executors.compare_stages(rounds)
    assert found["ideal: stages"] == 10
    assert found["overhead"] == pytest.approx(0.2)
    assert found["times as fast as one process, stages"] == 1
    assert found["times as fast as one process, whole"] == 1
    assert found[f"{executors.RAY}: stages"] == 12
