"""The comparison of fresh and stored claims must be able to fail."""

import copy

import pytest

from tests.chapters.agreement import disagreements


def claim(value=1.0, stderr=0.1, verdict="reproduced", outcome="holds", name="D1"):
    row = {"what": "W1", "op": "<", "bound": 2.0, "value": value, "stderr": stderr}
    return {"id": name, "verdict": verdict, "rows": [{**row, "outcome": outcome}]}


def test_the_same_claims_agree():
    assert disagreements([claim()], [copy.deepcopy(claim())]) == []


@pytest.mark.parametrize("value, apart", [(1.5, False), (1.6, True), (0.4, True)])
def test_values_may_differ_by_four_combined_errors(value, apart):
    # 4 * hypot(0.1, 0.1) = 0.566
    assert bool(disagreements([claim()], [claim(value)])) is apart


def test_a_number_without_an_error_must_be_the_same():
    assert disagreements([claim(stderr=None)], [claim(stderr=None)]) == []
    assert disagreements([claim(stderr=None)], [claim(1.001, stderr=None)])


@pytest.mark.parametrize(
    "verdict, outcome, apart",
    [("undecided", "open", False), ("not reproduced", "fails", True), ("partly", "holds", True)],
)
def test_a_verdict_moves_where_an_interval_came_to_straddle_its_bound(verdict, outcome, apart):
    fresh = claim(verdict=verdict, outcome=outcome)
    assert bool(disagreements([claim()], [fresh])) is apart


def test_a_claim_that_vanished_is_noticed():
    assert disagreements([claim()], [])
    assert disagreements([claim()], [claim(name="D2")])
