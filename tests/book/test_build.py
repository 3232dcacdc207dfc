"""From the sources to pages: the book, a rerun's page, the student edition."""

import html
import re

import pytest

from tests.book import tiny

SECRETS = ("SECRETNOTES", "SECRETGATED", "SECRETOUTPUT", "SECRETTAGGED", "SECRETNESTED")


def words(path):
    """A page's text as read: without tags, entities or repeated blanks."""
    text = re.sub(r"<(script|style).*?</\1>", " ", path.read_text(), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def texts_under(folder):
    return {p: p.read_bytes().decode("utf-8", "replace") for p in folder.rglob("*") if p.is_file()}


def files_of(book):
    return {p: p.read_bytes() for p in book.rglob("*") if p.is_file() and "_build" not in p.parts}


def test_executing_the_book_leaves_the_checkout_clean_and_compares_claims(book, call):
    """alpha's stored claim is altered: the run's verdict differs, which is told, not failed."""
    alpha = book / "chapters" / "alpha.ipynb"
    tiny.edit(alpha, '"verdict": "reproduced"', '"verdict": "partly"')
    before = files_of(book)
    answer = call(book, "build", "--execute")
    assert answer.code == 0, answer.err
    assert files_of(book) == before
    lines = answer.out.splitlines()
    cells = re.split(r"  +", lines[1])
    assert cells[2:] == ["0.001 [0.0008, 0.0012], n = 5, holds"] * 2 + ["partly", "reproduced"]
    assert lines[-2] == "Verdicts that differ from the stored ones: D1 (partly → reproduced)."
    assert lines[-1].endswith("_build/html/index.html")
    pages = book / "_build" / "html"
    for page in ("intro", "chapters/alpha", "chapters/beta", "chapters/scorecard", "notes"):
        assert (pages / f"{page}.html").is_file()
    executed = book / "_build" / "executed"
    assert "claims of ['alpha']" in tiny.text_of(executed / "scorecard.ipynb"), "of this very run"
    assert sorted(p.name for p in (book / "_build").iterdir()) == ["executed", "html"]
    text = "".join(texts_under(pages).values())
    missing = [secret for secret in SECRETS if secret not in text]
    assert not missing, "the full edition has its solutions, or the next test proves nothing"
    assert str(book) not in words(pages / "chapters" / "alpha.html")


def test_the_student_edition_holds_no_solution_anywhere(book, call):
    answer = call(book, "build", "--student")
    assert answer.code == 0, answer.err
    pages = book / "_build" / "student" / "html"
    assert answer.out.strip().endswith("_build/student/html/index.html")
    found = [(p.name, s) for p, text in texts_under(pages).items() for s in SECRETS if s in text]
    assert found == []
    sources = "".join(p.read_text() for p in (pages / "_sources").rglob("*") if p.is_file())
    assert "solution" not in sources
    assert "A question in prose." in sources
    assert "Prose after it." in words(pages / "chapters" / "beta.html")
    assert "SECRETGATED" in (book / "chapters" / "alpha.ipynb").read_text(), "the book keeps it"


@pytest.fixture(scope="module")
def variant(stored, tmp_path_factory):
    """The page of `run alpha -p steps 12 -p label ... --build`, and what the command printed."""
    import contextlib
    import io
    import shutil

    from lla_helpers.book.cli import main

    book = shutil.copytree(stored, tmp_path_factory.mktemp("variant") / "book")
    out = io.StringIO()
    args = ["run", "alpha", "-p", "steps", "12", "-p", "label", "</td>```{{x}} $y$"]
    with contextlib.redirect_stdout(out):
        assert main(["--root", str(book), *args, "--build"]) == 0
    return book, [book / line for line in out.getvalue().splitlines()]


def test_a_rerun_comes_back_as_a_page_of_the_book(variant):
    book, (notebook, page) = variant
    assert notebook.parent.parent == book / "_build" / "runs"
    assert page == notebook.parent / "html" / "chapters" / "alpha.html"
    assert (notebook.parent / "html" / "notes.html").is_file(), "the whole book is there"
    assert "(12, 0.01, 'relu'" in words(page)


def test_the_banner_says_what_differs_and_what_became_of_the_claims(variant):
    _, (_, page) = variant
    source = page.read_text()
    text = words(page)
    title, banner, prose = (
        source.index(part) for part in ("Chapter alpha<", "rerun-banner", "Prose of alpha.")
    )
    assert title < banner < prose
    assert "A rerun with other parameters" in text
    assert "parameter default this run steps 80 12 label 'plain' '</td>```{{x}} $y$' " in text
    assert "Verdicts that differ from the stored ones: D1 (reproduced → not reproduced)." in text
    fresh = "0.00667 [0.00533, 0.008], n = 5, fails"
    assert f"0.001 [0.0008, 0.0012], n = 5, holds {fresh}" in text
    assert 'class="math' not in source, "a value is no markup"


def judged(name, verdict, **outcomes):
    numbers = {"op": "<", "bound": 1.0, "value": 0.5, "low": 0.1, "high": 0.9, "n": 3}
    rows = [{"what": what, "outcome": outcome, **numbers} for what, outcome in outcomes.items()]
    return {"id": name, "verdict": verdict, "rows": rows}


def test_an_outcome_that_moves_below_a_verdict_that_stays_is_told():
    from lla_helpers.book.banner import banner
    from lla_helpers.book.verdicts import compare, summary

    stored = judged("D1", "partly", W1="holds", slope="fails")
    fresh = judged("D1", "partly", W1="open", slope="fails")
    text = banner({}, {}, compare([stored], [fresh]))
    told = "outcomes that moved: D1: W1 (holds → open)."
    assert f"No verdict differs from the stored ones; {told}" in text
    row = "<td>{0}, holds</td><td>{0}, open</td>".format("0.5 [0.1, 0.9], n = 3")
    assert row in text, "the numbers are equal: only the outcomes tell the runs apart"
    other = [judged("H1", verdict, x=out) for verdict, out in [("partly", "open"), ("a", "holds")]]
    both = summary(compare([stored, other[0]], [fresh, other[1]]))
    assert both == f"Verdicts that differ from the stored ones: H1 (partly → a); {told}"


def test_the_banner_says_plainly_when_no_verdict_moved():
    from lla_helpers.book.banner import banner
    from lla_helpers.book.verdicts import compare

    claim = judged("D1", "reproduced", W1="holds")
    assert "No verdict differs from the stored ones." in banner({}, {}, compare([claim], [claim]))
    assert "Nothing differs from the defaults." in banner({}, {}, [])
    assert "No claim is judged." in banner({}, {}, [])


def test_claims_that_come_and_go_are_told():
    from lla_helpers.book.verdicts import compare, summary

    untested = {"id": "H1", "verdict": "not testable here", "rows": []}
    one = {"what": "x", "op": ">", "bound": 0.5, "value": 1.0, "low": None, "high": None, "n": 1}
    one["outcome"] = "open"
    new = {"id": "H2", "verdict": "partly", "rows": [one]}
    rows = compare([untested], [new])
    assert [(r.claim, r.what, r.stored, r.fresh) for r in rows] == [
        ("H2", "x > 0.5", "-", "1 (one run)"),
        ("H1", "-", "-", "-"),
    ]
    assert summary(rows).endswith("H2 (- → partly), H1 (not testable here → -).")


def test_a_broken_reference_fails_the_build_and_keeps_the_old_pages(book, call):
    old = book / "_build" / "html" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    tiny.edit(book / "notes.md", "A question", "{ref}`nowhere` A question")
    answer = call(book, "build")
    assert answer.code == 1
    assert answer.last == "notes.md:6: WARNING: undefined label: 'nowhere'"
    assert old.read_text() == "old"
    assert [p.name for p in (book / "_build").iterdir()] == ["html"], "no stage is left"


def test_a_page_that_is_not_there_fails_the_build(book, call, monkeypatch):
    """Another jupyter-book may build nothing and end well."""
    from lla_helpers.book import render

    def builds_little(stage, strict, quiet):
        pages = stage / "_build" / "html"
        pages.mkdir(parents=True)
        (pages / "intro.html").write_text("")
        return pages

    monkeypatch.setattr(render, "jupyter_book", builds_little)
    answer = call(book, "build")
    assert (answer.code, answer.out) == (1, "")
    left_out = "chapters/alpha, chapters/beta, chapters/scorecard, notes"
    assert answer.err == f"error: the build left out: {left_out}\n"
    assert list((book / "_build").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```{solution-start} x\n```\ntext", "{solution-start} without its {solution-end}"),
        ("```{solution-end}\n```", "{solution-end} without its counterpart"),
        ("```{solution} x\ntext", "a {solution} directive is never closed"),
    ],
)
def test_an_open_solution_stops_the_student_edition(book, call, text, complaint):
    (book / "notes.md").write_text(f"# Notes\n\n{text}\n")
    answer = call(book, "build", "--student")
    assert (answer.code, answer.err) == (2, f"error: notes.md: {complaint}\n")
    assert not (book / "_build" / "student").exists()


def test_every_form_of_a_solution_is_found():
    from lla_helpers.book.student import Stripper

    text = "a\n:::{solution} x\n```\n:::\n:::\nb\n  ~~~~ {solution} y\n~~~\ns\n  ~~~~\nc\n"
    assert Stripper("page").strip(text) == "a\n:::\nb\nc\n"
