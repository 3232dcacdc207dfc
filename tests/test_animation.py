"""The slider: no network, words for what is seen, the same bytes for the same frames."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest
from matplotlib.animation import FuncAnimation

from lla_helpers.animation import slider


def animation():
    fig, ax = plt.subplots(figsize=(1, 1), dpi=30)
    (line,) = ax.plot([0, 1], [0, 1])
    made = FuncAnimation(fig, lambda i: line.set_data([0, 1], [0, i]), frames=3)
    plt.close(fig)
    return made


def test_offline_described_and_the_same_each_time():
    first, second = (slider(animation(), "dens", 'rises & "falls"').data for _ in range(2))
    assert first == second
    assert "http" not in re.sub(r"https?://www\.w3\.org", "", first)
    assert '<img alt="rises &amp; &quot;falls&quot;"' in first
    assert 'aria-label="frame"' in first and "fa-" not in first
    assert first.count("data:image/png;base64") == 3
    assert first.count("<button") == len(re.findall(r"<button[^>]*aria-label=", first)) == 9
    assert not re.search(r"[0-9a-f]{32}(?![\w+/=])", re.sub(r"base64,[^\"]*", "", first))
    assert 'id="_anim_imgdens"' in first and "animdens = new Animation" in first


@pytest.mark.parametrize(("name", "alt"), [("two words", "x"), ("good", "  ")])
def test_a_name_that_is_none_or_no_words_are_refused(name, alt):
    with pytest.raises(ValueError, match=r"name must be|alt must say"):
        slider(None, name, alt)
