"""A stamp follows the code to everything that it uses, and to nothing else."""

import ast

import pytest

from lla_helpers.book.chapters import Book
from lla_helpers.book.closure import Helpers
from lla_helpers.book.stamp import Stamper, mentions, parsed
from tests.book import tiny


def reached(root, code):
    return {m.removeprefix("lla_helpers.") for m in Helpers(root).closure(ast.parse(code))}


@pytest.fixture(scope="module")
def helpers(tmp_path_factory):
    root = tmp_path_factory.mktemp("helpers")
    files = {
        "__init__.py": 'EXPORTS = {"slq": "density"}',
        "density.py": "from . import lanczos\nfrom lla_helpers.plots import use",
        "lanczos.py": "x = 1",
        "plots.py": "def f():\n    import lla_helpers.session as s",
        "session.py": "",
        "data.py": "from lla_helpers import slq",
        "sub/__init__.py": "from .. import session",
        "sub/deep.py": "from ..lanczos import x",
    }
    for name, text in files.items():
        path = root / "lla_helpers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


DENSITY = {"density", "lanczos", "plots", "session"}


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("from lla_helpers import slq", DENSITY),
        ("from lla_helpers import *", DENSITY),
        ("import lla_helpers\nlla_helpers.slq(1)", DENSITY),
        ("import lla_helpers as lla\ndef f():\n    return lla.slq", DENSITY),
        ("import lla_helpers.density", DENSITY),
        ("import lla_helpers.lanczos\nlla_helpers.slq", DENSITY),
        ("from lla_helpers import data", DENSITY | {"data"}),
        ("from lla_helpers import lanczos", {"lanczos"}),
        ("def f():\n    from lla_helpers.lanczos import x", {"lanczos"}),
        ("import importlib\nimportlib.import_module('lla_helpers.lanczos')", {"lanczos"}),
        ("from lla_helpers.sub import deep", {"sub", "sub.deep", "lanczos", "session"}),
        ("from lla_helpers.sub.deep import x", {"sub", "sub.deep", "lanczos", "session"}),
        ("import lla_helpers", set()),
        ("import numpy, torch.nn\nfrom math import pi\n'lla_helpers.no such'", set()),
    ],
)
def test_every_form_of_import_is_followed(helpers, code, modules):
    assert reached(helpers, code) == modules


def test_magics_are_no_obstacle():
    lines = parsed("%matplotlib inline\n!ls\nx = (5\n  % 2)")
    assert [ast.unparse(line) for line in lines] == ["pass", "pass", "x = 5 % 2"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('load("digits.npz")', True),
        ("data/digits.npz", True),
        ("more_digits.npz", False),
        ("digits.npz2", False),
        ("digitsXnpz", False),
    ],
)
def test_a_data_file_counts_when_its_whole_name_appears(text, found):
    assert mentions(text, "digits.npz") is found


def changes(root, name="alpha"):
    book = Book(root)
    chapter = book.chapter(name)
    return Stamper(book).changes(chapter, chapter.load())


def test_a_stored_chapter_is_fresh(book):
    assert [changes(book, name) for name in ("alpha", "beta", "scorecard")] == [[], [], []]


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("chapters/alpha.ipynb", "thirteen is", "13 is", ["code cell 2 changed"]),
        ("chapters/alpha.ipynb", "int = 80", "int = 81", ["code cell 1 changed"]),
        ("chapters/alpha.ipynb", '"parameters"', '"parameters", "x"', ["code cell 1 changed"]),
        ("chapters/alpha.ipynb", "Prose of alpha", "Other prose", []),
        ("lla_helpers/deep.py", "return 2", "return 3", ["lla_helpers/deep.py changed"]),
        ("lla_helpers/arith.py", "Reads", "Read", ["lla_helpers/arith.py changed"]),
        ("lla_helpers/unrelated.py", "1", "2", []),
        ("lla_helpers/__init__.py", '"other": "unrelated"', '"else": "unrelated"', []),
        ("data/numbers.csv", "1", "2", ["data/numbers.csv changed"]),
        ("data/more_numbers.csv", "1", "2", []),
        ("lla_helpers/arith.py", "numbers.csv", "none", None),
    ],
)
def test_what_changed_is_named(book, path, old, new, expected):
    tiny.edit(book / path, old, new)
    if expected is None:
        expected = ["data/numbers.csv no longer used", "lla_helpers/arith.py changed"]
    assert changes(book) == expected
    assert changes(book, "beta") == [], "beta uses none of this"


def test_a_cell_removed_or_added_is_named(book):
    path = book / "chapters" / "alpha.ipynb"
    notebook = tiny.read(path)
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    notebook["cells"].remove(codes[2])
    path.write_text(tiny.json.dumps(notebook))
    assert changes(book) == ["1 code cell(s) removed after code cell 2"]


def test_the_scorecard_depends_on_the_other_chapters_claims(book):
    tiny.edit(book / "chapters" / "alpha.ipynb", '"verdict": "reproduced"', '"verdict": "partly"')
    assert changes(book) == [], "the code of alpha is what it was"
    assert changes(book, "scorecard") == ["claims of alpha changed"]


def test_an_edited_stamp_is_not_believed(book):
    path = book / "chapters" / "alpha.ipynb"
    stamp = tiny.read(path)["metadata"]["lla"]["stamp"]
    tiny.edit(path, stamp, "0" * len(stamp))
    assert changes(book) == ["the stamp itself was edited"]
