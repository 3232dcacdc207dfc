"""A reader's rerun: validated before anything is written, then whole or not at all."""

import json

import pytest

from lla_helpers.book.variant import slug
from tests.book import tiny


def notebook_of(book, name):
    return book / "_build" / "runs" / name / f"{name.split('-')[0]}.ipynb"


def test_layers_of_values_reach_the_chapter(book, call, tmp_path):
    """preset < file < options, each value as the type that its parameter declares."""
    values = tmp_path / "values.yaml"
    values.write_text("width: 5e-2\nlabel: from the file\nlimit: 5\n")
    options = ["-p", "label", 'it\'s "a" \\n {x}', "-p", "layers", "3,4", "-p", "limit", "none"]
    answer = call(book, "run", "alpha", "--preset", "smoke", "-f", str(values), *options)
    assert answer.code == 0, answer.err
    path = answer.out.strip()
    assert path.endswith("/alpha.ipynb")
    printed = tiny.text_of(book / path)
    expected = (10, 0.05, "relu", [3, 4], None, 'it\'s "a" \\n {x}', False)
    assert printed == f"{expected!r}\nscaled 20\nSECRETOUTPUT\n"
    assert "alpha: code cell 2 of 6" in answer.err, "progress, cell by cell"
    assert all(line.startswith("alpha: ") for line in answer.err.splitlines()), "and no noise"


@pytest.mark.parametrize(
    "payload",
    [
        "__import__('os').system('touch HARM')",
        "\"); import os; os.system('touch HARM') #",
        "'\\\"\\'); open('HARM', 'w') #",
        "\\",
        "x\u2028import os",
    ],
)
def test_a_value_is_never_code(book, call, payload):
    answer = call(book, "run", "alpha", "-p", "label", payload)
    assert answer.code == 0, answer.err
    assert repr(payload) in tiny.text_of(book / answer.out.strip())
    assert not list(book.rglob("HARM"))


@pytest.mark.parametrize("name", ["steps", "width", "layers", "limit", "verbose", "activation"])
def test_code_is_no_number_and_no_choice(book, call, name):
    answer = call(book, "run", "alpha", "-p", name, "__import__('os').system('touch HARM')")
    assert answer.code == 2
    assert answer.err.startswith(f"error: alpha: {name} ")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["-p", "stepz", "40"], "alpha has no parameter 'stepz'; did you mean 'steps'?"),
        (["-p", "steps=40; import os", "1"], "alpha has no parameter"),
        (["-p", "steps", "forty"], "alpha: steps must be an integer, not 'forty'"),
        (["-p", "steps", "4"], "alpha: steps must be within 10..400, not 4"),
        (["-p", "steps", "-40"], "alpha: steps must be within 10..400, not -40"),
        (["-p", "layers", "[]"], "alpha: layers needs at least one value"),
        (["-p", "layers", ""], "alpha: layers needs at least one value"),
        (["-p", "label", "a\nimport os"], "alpha: label must be printable text on one line"),
        (["-p", "steps", "40", "-p", "steps", "50"], "-p steps is given 2 times"),
        (["--preset", "smok"], "alpha has no preset 'smok'; did you mean 'smoke'?"),
        (["-f", "nowhere.yaml"], "cannot read nowhere.yaml: No such file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(book, call, args, complaint):
    answer = call(book, "run", "alpha", *args)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {complaint}")
    assert answer.err.count("\n") == 1
    assert not (book / "_build").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("steps: {", "cannot read "),
        ("- 1", "holds no values"),
        ("stepz: 20", "did you mean 'steps'?"),
        ("steps: true", "steps must be an integer, not True"),
        ("label: !!python/object/apply:os.system ['touch HARM']", "cannot read "),
    ],
)
def test_a_bad_file_is_refused(book, call, tmp_path, content, complaint):
    values = tmp_path / "values.yaml"
    values.write_text(content)
    answer = call(book, "run", "alpha", "-f", str(values))
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert complaint in answer.err
    assert not list(tmp_path.rglob("HARM"))


def test_a_failing_cell_is_named_and_the_good_notebook_stays(book, call):
    good = call(book, "run", "alpha", "-p", "steps", "13")
    assert (good.code, good.out) == (1, "")
    assert good.last == (
        "error: alpha, code cell 3 (`from lla_helpers import scale`): "
        "ValueError: thirteen is refused"
    )
    assert not (book / "_build" / "runs").exists(), "not even an empty folder"

    path = book / call(book, "run", "alpha", "-p", "steps", "40").out.strip()
    before = path.read_bytes()
    tiny.edit(book / "lla_helpers" / "deep.py", "return 2", "raise OSError('a\\nb')")
    bad = call(book, "run", "alpha", "-p", "steps", "40")
    assert bad.code == 1
    assert bad.last.endswith("OSError: b")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_report_for_machines_lies_beside_the_notebook_and_the_page(book, call):
    """The chapter leaves it as an output of its own type; `run` writes it as a file."""
    report = tiny.code('display({"application/vnd.lla.report+json": {"r": seed}}, raw=True)')
    seed = tiny.code("seed: int = 0  # a seed", "parameters")
    tiny.write(book / "chapters" / "beta.ipynb", tiny.prose("# Chapter beta"), seed, report)
    answer = call(book, "run", "beta", "-p", "seed", "7", "--build")
    assert answer.code == 0, answer.err
    for path in answer.out.split():
        beside = (book / path).with_suffix(".json")
        assert json.loads(beside.read_text()) == {"r": 7}


def test_paths_of_the_reader_count_from_where_the_command_was_called(book, call, monkeypatch):
    where = tiny.code("import os\nprint(os.environ['LLA_FROM'])")
    seed = tiny.code("seed: int = 0  # a seed", "parameters")
    tiny.write(book / "chapters" / "beta.ipynb", tiny.prose("# Chapter beta"), seed, where)
    monkeypatch.chdir(book / "data")
    path = book / "data" / call(book, "run", "beta").out.strip()
    assert "data\n" in tiny.text_of(path)


def test_a_kernel_that_dies_is_told_from_a_cell_that_fails(book, call):
    tiny.edit(book / "lla_helpers" / "deep.py", "return 2", "import os; os._exit(1)")
    answer = call(book, "run", "alpha")
    assert answer.code == 1
    assert answer.last.startswith("error: alpha, code cell 2 (`from lla_helpers import scale`): ")
    assert "its kernel died" in answer.last


def test_a_chapter_that_stops_early_is_not_done(book, call):
    tiny.edit(book / "lla_helpers" / "deep.py", "return 2", "raise SystemExit(0)")
    answer = call(book, "run", "alpha")
    assert (answer.code, answer.out) == (1, "")
    assert answer.last.endswith(": the chapter stopped before its end")


def test_threads_are_bounded_unless_opened_up(book, call, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("LLA_THREADS", raising=False)
    assert call(book, "run", "beta").code == 0
    path = notebook_of(book, "beta-defaults")
    assert "threads 1 1" in tiny.text_of(path)
    monkeypatch.setenv("LLA_THREADS", "3")
    call(book, "run", "beta")
    assert "threads 3 3" in tiny.text_of(path)


@pytest.mark.parametrize("variable", ["LLA_THREADS", "LLA_WORKERS"])
def test_a_bad_setting_is_one_line(book, call, monkeypatch, variable):
    monkeypatch.setenv(variable, "many")
    answer = call(book, "run", "beta")
    assert answer.code == 2
    assert answer.last == f"error: {variable} must be a positive integer, not 'many'"
    assert not (book / "_build").exists()


def test_a_slug_is_readable_and_tells_values_apart():
    assert slug({}) == "defaults"
    assert slug({"steps": 40, "seed": 3}) == "steps-40_seed-3"
    assert slug({"width": 1e-3, "layers": [3, 4]}) == "width-0.001_layers-3-4"
    close = [{"s": v} for v in ("a/b", "a b", "a-b", ["a", "b"], ["a-b"], "../a", "x" * 99, "")]
    slugs = [slug(values) for values in close]
    assert len(set(slugs)) == len(slugs)
    assert all(len(s) < 80 and "/" not in s and " " not in s for s in slugs)
