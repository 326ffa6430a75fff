"""Recipes of others: a sentence, whatever is in them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.config import load_config, recipe_config
from trainer.errors import TrainerError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
HOSTILE = {
    "no bytes": "",
    "a billion laughs": LAUGHS,
    "a billion merges": MERGES,
    "a list in itself": "data: &a [*a]",
    "lists in lists": "data: " + "[" * 100_000,
    "mappings in mappings": "data: " + "{a: " * 100_000,
    "blocks in blocks": "- " * 50_000,
    "a question of questions": "? " * 50_000,
    "a value of a megabyte": "name: " + "x" * (1 << 20),
    "a tag that runs code": "name: !!python/object/apply:os.system [exit]",
    "a date that does not exist": "name: 2024-99-99",
    "a number of 10,000 digits": "seed: " + "9" * 10_000,
    "a number that is none": "schedule: {samples: .nan}",
    "an unending number": "schedule: {seconds: .inf, samples: 1.0e+400}",
    "keys that are no text": "{1: 2, null: 3, 1.5: {}}",
    "a key that is a list": "{[a]: 1}",
    "an unending text": 'name: "a',
    "a sign that YAML lacks": "name: \x07",
    "two documents": "name: a\n---\nname: b",
    "a list": "- name",
    "a text": "recipe",
    "a list for a group": "data: [rainy, clean]",
    "a text for a group": "data: rainy",
    "a derainer of a million blocks": "{data: {rainy: a, clean: b}, derainer: {middle: 1000000}}",
    "a derainer without channels": "{data: {rainy: a, clean: b}, derainer: {width: 0}}",
}


@pytest.mark.parametrize("read", [load_config, recipe_config])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_ends_in_a_sentence(tmp_path: Path, name: str, read: object) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(HOSTILE[name])
    assert callable(read)
    with pytest.raises(TrainerError) as caught:
        read(file)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 2000


def test_a_recipe_in_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(TrainerError, match="cannot be read"):
        load_config(tmp_path / "theirs.yaml")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=2)), min_size=1, max_size=4)
)
def test_a_recipe_with_flipped_bytes_is_read_or_refused_in_a_sentence(
    tmp_path: Path, changes: list[tuple[float, bytes]]
) -> None:
    data = bytearray((files("trainer") / "recipes" / "demo.yaml").read_bytes())
    for place, value in changes:
        at = int(place * (len(data) - 1))
        data[at : at + len(value)] = value
    (tmp_path / "flipped.yaml").write_bytes(data)
    try:
        load_config(tmp_path / "flipped.yaml")
    except TrainerError as problem:
        said = str(problem)
        assert said.strip()
