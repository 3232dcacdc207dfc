"""A parameters cell is read without running it; values are typed, limited, and stay data."""

import pytest

from lla_helpers.book.declared import parse
from lla_helpers.book.errors import BadInput
from lla_helpers.book.values import overrides, read
from tests.book.tiny import PARAMETERS

ALL = parse(PARAMETERS)


def test_a_line_gives_type_default_range_choices_and_help():
    steps, activation, limit = ALL["steps"], ALL["activation"], ALL["limit"]
    assert (steps.type, steps.default, steps.allowed) == ("int", 80, "10..400")
    assert steps.help == "Lanczos steps"
    assert activation.choices == ("relu", "tanh")
    assert (limit.type, limit.default, limit.allowed) == ("int | None", None, "1..")
    assert list(ALL) == "steps width activation layers limit label verbose".split()


@pytest.mark.parametrize(
    ("comment", "allowed", "words"),
    [
        ("-1.5..1e3; help", "-1.5..1000", "help"),
        ("..5; help", "..5", "help"),
        ("help; with a semicolon", "", "help; with a semicolon"),
        ("... help that trails in", "", "... help that trails in"),
        ("", "", ""),
    ],
)
def test_the_range_comes_before_the_help(comment, allowed, words):
    parameter = parse(f"x: float = 1.0  # {comment}")["x"]
    assert (parameter.allowed, parameter.help) == (allowed, words)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("x = 1", "name: type = literal"),
        ("x: int", "name: type = literal"),
        ("print(1)", "name: type = literal"),
        ("x: complex = 1  # h", "of type complex"),
        ("x: int = 2 * 3  # h", "no literal"),
        ("x: int = len('ab')  # h", "no literal"),
        ("x: int = 'a'  # h", "must be an integer"),
        ("x: int = True  # h", "must be an integer"),
        ("x: int = None  # h", "must be an integer"),
        ("x: list[int] = [1, 'a']  # h", "list of integers"),
        ("x: int = 5  # 10..20; h", "within 10..20"),
        ("x: int = 15  # 20..10; h", "empty"),
        ("x: int = 15  # 10..20 h", "semicolon"),
        ("x: str = 'a'  # {a, b} h", "semicolon"),
        ("x: str = 'c'  # {a, b}; h", "cannot be 'c'"),
        ("x: int = 1  # {1, 2}; h", "for type str"),
        ("x: str = 'a'  # 1..2; h", "for numbers"),
        ("x: int = 1  # h\nx: int = 2  # h", "line 2: x is there twice"),
        ("x: int = (", "not Python"),
    ],
)
def test_a_line_that_cannot_be_trusted_is_refused(line, complaint):
    with pytest.raises(ValueError, match=r"line|not Python") as caught:
        parse(line)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "40", 40),
        ("steps", " +40 ", 40),
        ("width", "1", 1.0),
        ("width", "1e-3", 1e-3),
        ("activation", "tanh", "tanh"),
        ("layers", "4,5", [4, 5]),
        ("layers", "[4, 5]", [4, 5]),
        ("limit", "None", None),
        ("limit", "7", 7),
        ("label", "None", "None"),
        ("label", "", ""),
        ("verbose", "TRUE", True),
    ],
)
def test_text_becomes_a_value_of_the_declared_type(name, text, value):
    result = read(ALL[name], text)
    assert result == value
    assert type(result) is type(value)


def test_words_in_a_list_may_be_quoted():
    words = parse("x: list[str] = []  # words")["x"]
    assert read(words, "['a', b ]") == ["a", "b"]


def test_only_a_list_without_limits_may_be_empty():
    assert read(parse("x: list[int] = [1]  # numbers")["x"], "[]") == []
    assert read(parse("x: list[int] | None = [1]  # 1..9; numbers")["x"], "none") is None
    with pytest.raises(ValueError, match=r"^x needs at least one value$"):
        read(parse("x: list[str] = ['a']  # {a, b}; words")["x"], [])


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("steps", "4.5", "steps must be an integer, not '4.5'"),
        ("steps", "9" * 5000, "steps must be an integer"),
        ("steps", "9" * 400, "steps must be within 10..400"),
        ("steps", 4.0, "steps must be an integer, not 4.0"),
        ("steps", True, "steps must be an integer, not True"),
        ("steps", None, "steps must be an integer, not None"),
        ("steps", "401", "steps must be within 10..400, not 401"),
        ("width", "nan", "width must be a finite number"),
        ("width", "-1e-9", "width must be within 0..1"),
        ("width", 10**400, "width must be a finite number"),
        ("activation", "rel", "did you mean 'relu'?"),
        ("layers", "4,,5", "layers must be a list of integers such as 1,2,3"),
        ("layers", "4,0", "layers must be within 1..512, not 0"),
        ("layers", 4, "layers must be a list of integers"),
        ("limit", "some", "limit must be an integer or none"),
        ("verbose", "yes", "verbose must be true or false"),
        ("label", "two\nlines", "printable text on one line"),
        ("label", "bell\x07", "printable text on one line"),
        ("label", "\udc80", "printable text on one line"),
        ("label", 3, "label must be text, not 3"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(name, value, complaint):
    with pytest.raises(ValueError, match=name) as caught:
        read(ALL[name], value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_later_layers_win_and_defaults_drop_out():
    values = overrides(
        "c",
        ALL,
        {"steps": 20, "width": 0.5, "label": "a"},
        {"width": "1e-1", "label": "b"},
        {"label": "plain", "limit": "3"},
    )
    assert values == {"steps": 20, "width": 0.1, "limit": 3}
    assert list(values) == ["steps", "width", "limit"], "in the order of the cell"


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_is_validated(layer):
    layers = [{}, {}, {}]
    layers[layer] = {"stepz": "40"}
    with pytest.raises(BadInput, match="no parameter 'stepz'; did you mean 'steps'"):
        overrides("c", ALL, *layers)
    layers[layer] = {"steps": "4"}
    with pytest.raises(BadInput, match="within"):
        overrides("c", ALL, *layers)
