import pytest
from pydantic import ValidationError

from rgsud_core.errors import nearest
from rgsud_core.settings import Settings


class Inner(Settings):
    """Settings of a test."""

    width: int = 32
    """Channels."""


class Outer(Settings):
    """Settings of a test."""

    learning_rate: float = 1e-4
    """Learning rate."""
    inner: Inner = Inner()
    """Nested."""


def test_nearest_names_a_near_word():
    assert nearest("nafnet-23", ["restormer", "nafnet-32"]) == "did you mean 'nafnet-32'?"


def test_nearest_lists_every_word_where_none_is_near():
    assert nearest("xyz", ["one", "two"]) == "known are one, two"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"learning_rat": 1}, "unknown setting 'learning_rat': did you mean 'learning_rate'?"),
        ({"inner": {"widht": 1}}, "unknown setting 'widht': did you mean 'width'?"),
        ({"xyz": 1}, "unknown setting 'xyz': known are learning_rate, inner"),
    ],
)
def test_an_unknown_key_is_refused_with_a_hint(values: dict, expected: str):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    assert expected in str(caught.value)


def test_a_wrong_type_is_refused_with_its_path():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"width": "wide"}})
    assert caught.value.errors()[0]["loc"] == ("inner", "width")


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Outer().learning_rate = 1.0  # type: ignore[misc]


def test_settings_survive_json():
    settings = Outer(learning_rate=0.5, inner=Inner(width=7))
    assert Outer.model_validate_json(settings.model_dump_json()) == settings


def test_docstrings_describe_the_fields():
    assert Outer.model_fields["learning_rate"].description == "Learning rate."
