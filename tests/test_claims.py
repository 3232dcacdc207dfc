"""Verdicts: decided by rules at their bounds, and carried in JSON and HTML that hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from lla_helpers.claims import MIME, Claims, Condition, Interval, Rule, as_html, interval


def measured(low, high):
    return Interval((low + high) / 2, 1.0, low, high, 5)


def test_an_interval_is_students():
    values = [1.0, 2.0, 4.0, 5.5]
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert found.value == pytest.approx(np.mean(values)) and found.n == 4
    assert found.stderr == pytest.approx(stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    same = interval([2.0, 2.0, 2.0])
    assert (same.low, same.value, same.high, same.stderr) == (2.0, 2.0, 2.0, 0.0)


def test_one_run_decides_nothing():
    one = interval([3.0])
    assert (one.low, one.high, one.n) == (-math.inf, math.inf, 1) and math.isnan(one.stderr)
    assert Condition("x", "<", 1e9).holds(one) == "open"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]], ids=str)
def test_what_is_no_number_is_no_measurement(values):
    with pytest.raises(ValueError, match="finite values, at least one"):
        interval(values)


@pytest.mark.parametrize(
    ("op", "low", "high", "outcome"),
    [
        ("<", 0.0, 0.999, "holds"),
        ("<", 0.0, 1.0, "open"),
        ("<", 0.5, 1.5, "open"),
        ("<", 1.0, 1.0, "open"),
        ("<", 1.0, 2.0, "open"),
        ("<", 1.001, 2.0, "fails"),
        (">", 1.001, 2.0, "holds"),
        (">", 1.0, 2.0, "open"),
        (">", 0.5, 1.5, "open"),
        (">", 1.0, 1.0, "open"),
        (">", 0.0, 1.0, "open"),
        (">", 0.0, 0.999, "fails"),
        ("<", math.nan, math.nan, "open"),
        (">", math.nan, math.nan, "open"),
    ],
)
def test_a_condition_at_its_bound(op, low, high, outcome):
    """Decided only when the whole interval lies beyond the bound; touching it decides nothing."""
    assert Condition("x", op, 1.0).holds(measured(low, high)) == outcome


HOLDS, FAILS, OPEN = measured(2, 3), measured(0, 0.5), measured(0, 3)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([HOLDS], "reproduced"),
        ([FAILS], "not reproduced"),
        ([OPEN], "undecided"),
        ([OPEN, OPEN], "undecided"),
        ([HOLDS, HOLDS, HOLDS], "reproduced"),
        ([FAILS, FAILS], "not reproduced"),
        ([HOLDS, FAILS], "partly"),
        ([HOLDS, OPEN], "partly"),
        ([FAILS, OPEN], "not reproduced"),
        ([HOLDS, HOLDS, FAILS], "partly"),
    ],
)
def test_conditions_make_a_verdict(outcomes, verdict):
    names = [f"x{i}" for i in range(len(outcomes))]
    rule = Rule("T1", "nobody2020", "x is large", tuple(Condition(n, ">", 1.0) for n in names))
    claim = rule.judge(dict(zip(names, outcomes, strict=True)))
    assert claim.verdict == verdict and len(claim.rows) == len(outcomes)


RULE = Rule("T1", "nobody2020", "x is large", (Condition("x", ">", 1.0), Condition("x", "<", 9.0)))


def test_a_two_sided_rule_takes_one_measurement():
    assert RULE.judge({"x": [4.0, 5.0, 6.0]}).verdict == "reproduced"
    assert RULE.judge({"x": [40.0, 40.5, 41.0]}).verdict == "partly"


@pytest.mark.parametrize("given", [{}, {"y": [1.0]}, {"x": [1.0, 2.0], "y": [1.0]}], ids=str)
def test_rule_and_measurement_must_match(given):
    with pytest.raises(ValueError, match=r"claim T1: measured .* but the rule asks for \['x'\]"):
        RULE.judge(given)


def test_rules_that_could_decide_nothing_are_refused():
    with pytest.raises(ValueError, match="'<' or '>', not '<='"):
        Condition("x", "<=", 1.0)
    with pytest.raises(ValueError, match="T1: a rule needs at least one condition"):
        Rule("T1", "nobody2020", "x", ())


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def bundle(*claims):
    found = Claims(claims)._repr_mimebundle_()
    # What a notebook stores, read back by a parser that knows no NaN.
    return json.loads(json.dumps(found, allow_nan=False), parse_constant=refuse)


def test_json_is_strict_whatever_was_measured():
    found = bundle(
        RULE.judge({"x": [3.0]}),
        RULE.judge({"x": Interval(math.inf, math.nan, -math.inf, math.inf, 4)}),
        RULE.judge(
            {"x": Interval(np.float32(2), np.float64(1), np.float32(1.5), 2.5, np.int64(3))}
        ),
        RULE.not_testable("needs a GPU"),
    )
    first, second, third, last = found[MIME]
    assert first["rows"][0]["low"] is None and first["rows"][0]["value"] == 3.0
    assert second["rows"][0]["value"] is None and second["rows"][0]["n"] == 4
    assert third["rows"][0]["value"] == 2.0 and third["rows"][0]["n"] == 3
    assert last["verdict"] == "not testable here" and last["rows"] == []
    assert found["text/plain"].splitlines()[-1] == "T1: not testable here"
    # A stored table is shown again, by the scorecard and beside a rerun.
    assert as_html(found[MIME]).count("<tr>") == as_html([]).count("<tr>") + 2 + 2 + 2 + 1


def test_html_shows_everything_and_escapes_it():
    nasty = '<script>alert("&")</script>'
    rule = Rule(nasty, "s", nasty + " statement", (Condition(nasty, "<", 1.0),))
    for claim in (rule.judge({nasty: [0.1, 0.2]}, why=nasty), rule.not_testable(nasty)):
        page = bundle(claim)["text/html"]
        assert "<script" not in page and 'alert("' not in page
        assert page.count("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;") >= 3
        assert claim.verdict in page


def test_html_gives_number_interval_rule_outcome_and_reason():
    page = bundle(RULE.judge({"x": [4.0, 5.0, 6.0]}, why="because"))["text/html"]
    for text in ("x &gt; 1", "x &lt; 9", "5 [2.52, 7.48], n = 3", "holds", "reproduced", "because"):
        assert text in page
    assert page.count('rowspan="2"') == 3
    assert "(one run)" in bundle(RULE.judge({"x": [4.0]}))["text/html"]
