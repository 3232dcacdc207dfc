"""Wherever a source has mathematics the page shows it typeset, and none of it raw or in red."""

from __future__ import annotations

import json
import re

import pytest

from tests.pages.conftest import ROOT

SOURCE = re.compile(r"\$[^$]+\$|\\begin\{|\{math\}")
RAW = re.compile(
    r"\$[^$\n]{1,80}\$|\$\$|\\\(|\\\[|\\begin\{|\\(?:frac|lambda|mathbb|operatorname|theta)\b"
)

# The words of the article as a reader sees them, less code and what MathJax drew.
WORDS = """() => {
  const copy = document.querySelector("article").cloneNode(true);
  copy.querySelectorAll("pre, code, script, mjx-container").forEach((node) => node.remove());
  return copy.textContent;
}"""


def markdown(name: str) -> str:
    """The prose of a page's source, without code."""
    path = ROOT / f"{name}.md"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        cells = json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"^(`{3,})(?!\{)[^\n]*\n.*?^\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_maths_of_the_source_is_typeset(opened, name):
    page = opened(name).page
    formulas = page.locator("article .math")
    assert (formulas.count() > 0) == bool(SOURCE.search(markdown(name)))
    untouched = formulas.filter(has_not=page.locator("mjx-container"))
    assert untouched.all_inner_texts() == []


def test_no_raw_tex_is_left(opened, name):
    assert RAW.findall(opened(name).page.evaluate(WORDS)) == []


@pytest.mark.parametrize("trouble", ["mjx-merror", "mjx-container [style*='red']"])
def test_mathjax_knew_every_command(opened, name, trouble):
    """An error is boxed; an unknown command is drawn in red as it stands."""
    assert opened(name).page.locator(trouble).all_inner_texts() == []
