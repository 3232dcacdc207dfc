"""Numbers as text: digits, powers and tables as a reader expects them."""

from __future__ import annotations

import pytest

from lla_helpers.words import percent, power, sayer, table


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.123, "12 %"), (1.5, "150 %"), (0.0123, "1.2 %"), (0.0, "0 %"), (1e-7, "less than 0.01 %")],
)
def test_percent(x, text):
    assert percent(x).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.32, "0.32"),
        (0.0, "0"),
        (3.2e-5, "3 × 10⁻⁵"),
        (-3.2e-5, "−3 × 10⁻⁵"),
        (12345.0, "1 × 10⁴"),
    ],
)
def test_power(x, text):
    assert power(x).replace("\u00a0", " ") == text


def test_a_table_has_its_head_and_sets_numbers_to_the_right():
    assert table(("a", "b"), ("x", 1)).data == "| a | b |\n| :-- | --: |\n| x | 1 |"


def test_a_word_is_glued_under_its_chapter(monkeypatch):
    glued = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, text, display: glued.update({name: text}))
    sayer("qs")(loss=0.5)
    assert glued == {"qs_loss": "0.5"}
