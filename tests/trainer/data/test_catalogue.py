import pytest

from trainer.data.catalogue import find, lookup
from trainer.errors import TrainerError


def make(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)


def test_names_are_known_whatever_their_spelling():
    assert lookup("rain100l").name == "Rain100L"
    assert lookup("spa_data") == lookup("SPA") == lookup("SPA-Data")
    assert [lookup(name).protocol for name in ("Rain200H", "DDN-Data", "Rain1200")] == ["A", "B", "B"]
    with pytest.raises(TrainerError, match="'Rain20L': did you mean 'Rain200L'"):
        lookup("Rain20L")
    with pytest.raises(TrainerError, match="known are Rain100L, "):
        lookup("holiday")


@pytest.mark.parametrize(
    "sides", [("input", "target"), ("rainy", "clean"), ("rain", "norain"), ("rain", "gt")]
)
def test_both_splits_are_found_in_the_usual_layouts(tmp_path, sides):
    make(tmp_path, *(f"Rain200L/{split}/{side}" for split in ("train", "test") for side in sides))
    found = find("rain200l", tmp_path)
    assert (found.train_rainy, found.train_clean) == tuple(
        tmp_path / "Rain200L/train" / side for side in sides
    )
    assert found.test == tuple(tmp_path / "Rain200L/test" / side for side in sides)
    assert find("Rain200L", tmp_path / "Rain200L") == found


def test_a_set_without_splits_is_a_test_set(tmp_path):
    make(tmp_path, "rain100h/input", "rain100h/target")
    found = find("Rain100H", tmp_path)
    assert found.test == (tmp_path / "rain100h/input", tmp_path / "rain100h/target")
    assert found.train_rainy is None


def test_a_training_set_may_have_rainy_images_alone(tmp_path):
    make(tmp_path, "Rain100L/train/rainy", "Rain100L/val/rainy", "Rain100L/val/clean", "real147/rainy")
    found = find("Rain100L", tmp_path)
    assert found.train_rainy == tmp_path / "Rain100L/train/rainy"
    assert found.train_clean is None
    assert found.test is not None
    real = find("SIRR", tmp_path)
    assert (real.train_rainy, real.test) == (tmp_path / "real147/rainy", None)


def test_what_is_absent_is_told_in_one_sentence(tmp_path):
    make(tmp_path, "Rain800/test/input")
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            TrainerError, match=r"Rain800 is not below .* test/input and test/target"
        ) as caught:
            find("Rain800", root)
        assert "\n" not in str(caught.value)
