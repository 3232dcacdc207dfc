"""Claims are collected from executed notebooks, with the figure that stands above them."""

from __future__ import annotations

import json

import pytest

from lla_helpers.claims import MIME, Claims, Condition, Rule
from lla_helpers.scorecard import as_table, judged_in, nearness, turning_point

RULE = Rule("D1", "ghorbani2019", "it is <accurate>", (Condition("W1", "<", 0.5),))


def notebook(path, *claims, figure="fig-w1"):
    data = Claims(claims)._repr_mimebundle_()
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["(x)=\n", "# A chapter\n"]},
        {
            "cell_type": "code",
            "metadata": {"mystnb": {"figure": {"name": figure}}},
            "source": "",
            "outputs": [],
        },
        {"cell_type": "code", "metadata": {}, "source": "", "outputs": [{"data": data}]},
    ]
    path.write_text(json.dumps({"cells": cells}))


def test_claims_are_found_with_their_figure(tmp_path):
    assert MIME in Claims([])._repr_mimebundle_()
    notebook(tmp_path / "one.ipynb", RULE.judge({"W1": [0.1, 0.11, 0.12]}))
    found = judged_in(tmp_path)
    assert list(found) == ["D1"]
    assert (found["D1"].title, found["D1"].link) == ("A chapter", "one.html#fig-w1")
    html = as_table([{"id": "D1", "statement": "it is <accurate>"}], found)
    assert "it is &lt;accurate&gt;" in html and "reproduced" in html and "one.html#fig-w1" in html
    missing = as_table([{"id": "H1", "statement": "x"}], found)
    assert "not judged" in missing


def test_a_claim_judged_twice_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="run the chapters first"):
        judged_in(tmp_path)
    for name in ("one", "two"):
        notebook(tmp_path / f"{name}.ipynb", RULE.judge({"W1": [0.1, 0.2]}))
    with pytest.raises(ValueError, match="claim D1 is judged by two chapters: one and two"):
        judged_in(tmp_path)


@pytest.mark.parametrize(
    ("values", "words", "near"),
    [
        ([0.1, 0.1, 0.1], "0.1 crosses 0.5", 0.8),
        ([1.0, 1.0, 1.0], "1 crosses 0.5", 1.0),
        ([0.1, 0.9, 0.5], "more seeds", 0.0),
        ([0.1], "more than one run", 0.0),
    ],
)
def test_what_would_change_a_verdict(values, words, near):
    (row,) = Claims([RULE.judge({"W1": values})])._repr_mimebundle_()[MIME][0]["rows"]
    assert words in turning_point(row)
    assert nearness(row) == pytest.approx(near)
