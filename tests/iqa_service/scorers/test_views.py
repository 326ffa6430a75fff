import numpy as np
import PIL.Image
import pytest

from iqa_service.errors import ScorerError
from iqa_service.scorers.views import Views, centre, tiles


def numbered(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.zeros_like(x)], axis=-1).astype(np.uint8)


def test_tiles_cover_every_pixel_at_native_resolution_row_by_row():
    image = numbered(100, 150)
    views = tiles(image, 64)
    assert views.shape == (6, 64, 64, 3)
    corners = [tuple(int(v) for v in view[0, 0, :2]) for view in views]
    assert corners == [(0, 0), (0, 43), (0, 86), (36, 0), (36, 43), (36, 86)]
    seen = {(int(y), int(x)) for view in views for y, x, _ in view.reshape(-1, 3)}
    assert len(seen) == 100 * 150
    for (top, left), view in zip(corners, views, strict=True):
        assert np.array_equal(view, image[top : top + 64, left : left + 64])


def test_tiles_of_an_image_that_fits_do_not_overlap():
    views = tiles(numbered(128, 64), 64)
    assert [int(view[0, 0, 0]) for view in views] == [0, 64]


def test_a_small_image_is_enlarged_to_one_row_of_tiles(china):
    assert tiles(china[:20, :50], 32).shape == (3, 32, 32, 3)


@pytest.mark.parametrize(
    ("height", "width", "limit", "grid"),
    [
        (250, 250, 16, (4, 4)),
        (250, 250, 9, (3, 3)),
        (64, 250, 3, (1, 3)),
        (250, 120, 4, (2, 2)),
        (250, 250, 1, (1, 1)),
    ],
)
def test_a_huge_photograph_is_covered_by_a_bounded_even_grid(height, width, limit, grid):
    views = tiles(numbered(height, width), 64, limit)
    corners = [tuple(int(v) for v in view[0, 0, :2]) for view in views]
    tops, lefts = sorted({top for top, _ in corners}), sorted({left for _, left in corners})
    assert (len(tops), len(lefts)) == grid
    assert len(views) == len(tops) * len(lefts) <= limit
    for starts, length in ((tops, height), (lefts, width)):
        if len(starts) == 1:
            assert starts == [(length - 64) // 2]
        else:
            assert (starts[0], starts[-1]) == (0, length - 64)
            assert np.ptp(np.diff(starts)) <= 1


def test_views_travel_as_json_and_cut_alike(china):
    for views in (Views(kind="tiles", size=32, tiles=9), Views(kind="centre", size=48)):
        again = Views.model_validate_json(views.model_dump_json())
        assert np.array_equal(again.cut(china), views.cut(china))
    assert len(Views(kind="tiles", size=32, tiles=9).cut(china)) == 9
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Views(kind="tiles", size=32, tiles=0)


@pytest.mark.parametrize("cut", [centre, tiles])
def test_a_strip_is_refused_before_it_is_enlarged(cut):
    with pytest.raises(ScorerError, match="2000 x 2 pixels is a strip"):
        cut(np.zeros((2, 2000, 3), np.uint8), 64)


def test_the_centre_is_clips_resize_and_crop(china):
    view = centre(china, 64)
    assert view.shape == (1, 64, 64, 3)
    shrunk = PIL.Image.fromarray(china).resize((96, 64), PIL.Image.Resampling.BICUBIC)
    assert np.array_equal(view[0], np.asarray(shrunk)[:, 16:80])


def test_the_centre_of_an_image_of_the_right_height_keeps_its_pixels():
    assert np.array_equal(centre(numbered(64, 100), 64)[0], numbered(64, 100)[:, 18:82])


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32, not uint8"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\), not \(height, width, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), "give an RGB image"),
        (np.zeros((0, 8, 3), np.uint8), "give an RGB image"),
        ([[0]], "list, not uint8"),
    ],
)
@pytest.mark.parametrize("cut", [centre, tiles])
def test_what_is_no_photograph_is_refused(cut, image, problem):
    with pytest.raises(ScorerError, match=problem):
        cut(image, 4)
