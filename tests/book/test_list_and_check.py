"""What can be said about the book without running anything."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.book import tiny


def test_list_shows_the_chapters_in_reading_order(book, call):
    answer = call(book, "list")
    rows = [line.split(maxsplit=1) for line in answer.out.splitlines()[1:]]
    assert rows == [
        ["alpha", "Chapter alpha"],
        ["beta", "Chapter beta"],
        ["scorecard", "Scorecard"],
    ]
    assert (answer.code, answer.err) == (0, "")


def test_list_shows_what_a_chapter_lets_you_change(book, call):
    out = call(book, "list", "alpha").out
    line = next(line for line in out.splitlines() if line.startswith("steps"))
    assert line.split() == ["steps", "int", "80", "10..400", "Lanczos", "steps"]
    assert "preset paper: steps 400" in out


def test_a_chapter_may_be_named_by_its_file(book, call):
    assert call(book, "list", "chapters/alpha.ipynb").out == call(book, "list", "alpha").out


@pytest.mark.parametrize("command", ["list", "check"])
def test_the_tool_answers_without_heavy_imports(book, command):
    """It is the packages loaded that make a command slow, so they are what is tested."""
    script = (
        "import sys; from lla_helpers.book.cli import main;"
        f"code = main(['--root', {str(book)!r}, {command!r}]);"
        "heavy = {'torch', 'papermill', 'nbformat', 'numpy', 'scipy'} & set(sys.modules);"
        "sys.exit(f'{heavy} loaded' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["list", "alhpa"], "error: no chapter 'alhpa'; did you mean 'alpha'?"),
        (["list", "zzz"], "error: no chapter 'zzz'; chapters: alpha, beta, scorecard"),
        (["run", "bta"], "error: no chapter 'bta'; did you mean 'beta'?"),
        (["refresh", "alpha", "bta"], "error: no chapter 'bta'; did you mean 'beta'?"),
        (["chek"], "error: no command 'chek'; did you mean 'check'?"),
        (["run"], "error: Missing argument 'CHAPTER'."),
        (["run", "alpha", "-p", "steps"], "error: Option '-p' requires 2 arguments."),
    ],
)
def test_a_slip_of_the_hand_gets_one_line(book, call, args, line):
    answer = call(book, *args)
    assert (answer.code, answer.out, answer.err) == (2, "", f"{line}\n")


def test_no_command_shows_the_help(book, call):
    answer = call(book)
    assert answer.code == 0
    assert all(command in answer.out for command in ("list", "run", "refresh", "check", "build"))


@pytest.mark.parametrize(
    ("path", "content", "complaint"),
    [
        ("_toc.yml", None, "no _toc.yml in"),
        ("_toc.yml", "root: [", "cannot read _toc.yml"),
        ("_toc.yml", "- a", "names no root page"),
        ("_toc.yml", "root: intro\nchapters: [{file: gone}]", "_toc.yml names gone, but there is"),
        ("chapters/beta.ipynb", "{", "beta.ipynb is not a notebook"),
        ("chapters/beta.ipynb", "[]", "beta.ipynb is not a notebook"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["check"], ["build"], ["refresh"]])
def test_a_broken_book_gets_one_line(book, call, command, path, content, complaint):
    (book / path).unlink()
    if content is not None:
        (book / path).write_text(content)
    answer = call(book, *command)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert complaint in answer.err
    assert not (book / "_build").exists()


def test_check_is_content_with_a_stored_book(book, call):
    answer = call(book, "check")
    assert (answer.code, answer.out, answer.err) == (0, "3 chapter(s) fresh and in order\n", "")


def test_check_finds_a_chapter_that_never_ran(book, call, tmp_path):
    answer = call(tiny.make(tmp_path / "new"), "check")
    assert answer.code == 1
    assert "alpha: stale: never stored by `refresh`" in answer.out
    assert "beta: never executed in full: code cell 1 has no execution count" in answer.out
    assert answer.err.startswith("error: 6 fault(s)")


def test_one_changed_line_of_a_helper_names_the_stale_chapters(book, call):
    tiny.edit(book / "lla_helpers" / "deep.py", "return 2", "return 3")
    answer = call(book, "check")
    assert answer.code == 1
    assert answer.out == "alpha: stale: lla_helpers/deep.py changed\n"
    assert "restore" not in answer.err


def cell(notebook, n):
    return [c for c in notebook["cells"] if c["cell_type"] == "code"][n - 1]


def swap_counts(notebook):
    first, second = cell(notebook, 1), cell(notebook, 2)
    first["execution_count"], second["execution_count"] = 2, 1


def clear_count(notebook):
    cell(notebook, 3)["execution_count"] = None


def add_error(notebook):
    error = {"output_type": "error", "ename": "E", "evalue": "e", "traceback": []}
    cell(notebook, 2)["outputs"].append(error)


def drop_alt(notebook):
    del cell(notebook, 4)["metadata"]["mystnb"]["image"]


def drop_figure(notebook):
    del cell(notebook, 4)["metadata"]["mystnb"]


def untag_parameters(notebook):
    cell(notebook, 1)["metadata"]["tags"] = []


def drop_help(notebook):
    cell(notebook, 1)["source"] = ["steps: int = 80  # 10..400\n", "width: float = 0.1  # w"]


def drop_type(notebook):
    cell(notebook, 1)["source"] = "steps = 80  # Lanczos steps"


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (swap_counts, "alpha: executed out of order: execution counts [2, 1, 3, 4, 5]"),
        (clear_count, "alpha: never executed in full: code cell 3 has no execution count"),
        (add_error, "alpha: code cell 2 ended in an error"),
        (drop_alt, "alpha: code cell 4 shows a figure without mystnb image.alt"),
        (
            drop_figure,
            "alpha: code cell 4 shows a figure without mystnb "
            "figure.caption, figure.name, image.alt",
        ),
        (untag_parameters, "alpha has 0 cells tagged `parameters`; it needs one"),
        (drop_help, "alpha: parameter steps has no help"),
        (
            drop_type,
            "alpha, parameters cell: line 1: write it as `name: type = literal  # help`",
        ),
    ],
)
def test_check_finds_each_fault(book, call, spoil, fault):
    path = book / "chapters" / "alpha.ipynb"
    notebook = tiny.read(path)
    spoil(notebook)
    path.write_text(json.dumps(notebook))
    answer = call(book, "check")
    assert answer.code == 1
    assert fault in answer.out.splitlines()


@pytest.mark.parametrize(
    ("presets", "fault"),
    [
        ("alpa: {smoke: {}}", "presets.yml: no chapter 'alpa'; did you mean 'alpha'?"),
        (
            "alpha: {smoke: {stepz: 20}}",
            "presets.yml, smoke: alpha has no parameter 'stepz'; did you mean 'steps'?",
        ),
        (
            "alpha: {smoke: {steps: 1}}",
            "presets.yml, smoke: alpha: steps must be within 10..400, not 1",
        ),
        (
            "alpha: {smoke: 3}",
            "chapters/presets.yml must read `chapter: {preset: {name: value}}` throughout",
        ),
    ],
)
def test_check_reads_the_presets(book, call, presets, fault):
    (book / "chapters" / "presets.yml").write_text(presets)
    answer = call(book, "check")
    assert (answer.code, answer.out) == (1, f"{fault}\n")


def test_a_book_needs_no_presets_and_no_data(book, call):
    (book / "chapters" / "presets.yml").unlink()
    shutil.rmtree(book / "data")
    tiny.edit(book / "lla_helpers" / "arith.py", "numbers.csv", "nothing")
    changes = "data/numbers.csv no longer used, lla_helpers/arith.py changed"
    assert call(book, "check").out == f"alpha: stale: {changes}\n"


def test_check_says_how_to_restore_a_data_file_that_the_code_still_names(book, call):
    (book / "data" / "numbers.csv").unlink()
    answer = call(book, "check")
    file = "data/numbers.csv"
    restore = f"{file} is missing: restore it with `git checkout -- {file}`"
    assert (answer.code, answer.out) == (1, f"alpha: stale: {restore}\n")
    assert answer.err.startswith("error: 1 fault(s); restore what is missing; then `python -m ")
    (book / "data" / file.split("/")[1]).write_text("1\n")
    assert call(book, "check").code == 0, "restoring it is all that was needed"
