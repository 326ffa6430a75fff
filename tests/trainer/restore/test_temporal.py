"""Frames are steadied by their neighbours where these show the same, and by nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rgsud_core.degradation.rendered import RainLayer, RainLook, add_rain
from rgsud_core.quality import psnr
from trainer.restore.motion import box, find_flow, warp
from trainer.restore.temporal import TemporalFilter

Frame = NDArray[Any]
SIZE = (72, 96)
LOOK = RainLook((RainLayer(length=20, width=1.5, angle=10, density=18, blur=0.3, brightness=0.6),))


def scene(right: float = 0.0, down: float = 0.0) -> Frame:
    """Texture of several sizes, moved by so many pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    x, y = x - right, y - down
    waves = [np.sin(x / 5 + y / 9) + np.sin(x / 11 - y / 4 + k) + np.sin(x * y / 300 + k) for k in range(3)]
    return np.rint(np.clip(110 + 25 * np.stack(waves, -1), 0, 255)).astype(np.uint8)


def steadied(rainy: Iterable[Frame], derained: Iterable[Frame]) -> list[Frame]:
    film = TemporalFilter()
    given = [film.push(*pair) for pair in zip(rainy, derained, strict=True)]
    assert given[0] is None
    return [frame for frame in (*given[1:], film.end()) if frame is not None]


def mean_psnr(frames: list[Frame], clean: list[Frame]) -> float:
    return float(np.mean([psnr(a, b) for a, b in zip(frames, clean, strict=True)]))


@pytest.mark.parametrize(("right", "down"), [(0, 0), (1.5, 0), (-4, 2.5), (0.3, -6)])
def test_flow_finds_a_shift(right: float, down: float) -> None:
    start, end = (
        torch.from_numpy(frame).float().mean(-1)[None, None] / 255 for frame in (scene(), scene(right, down))
    )
    inner = find_flow(start, end)[0, :, 16:-16, 16:-16]
    assert inner[0].median().item() == pytest.approx(right, abs=0.15)
    assert inner[1].median().item() == pytest.approx(down, abs=0.15)


def test_a_warp_takes_values_from_where_the_flow_ends() -> None:
    values = torch.arange(20.0).view(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0], flow[:, 1] = 1, 2
    assert torch.allclose(warp(values, flow)[0, 0, :2, :4], values[0, 0, 2:, 1:])


def test_a_mean_over_a_box_ends_at_the_border() -> None:
    values = torch.rand(1, 2, 9, 7)
    found = box(values, 2)
    assert torch.allclose(found[0, 1, 0, 0], values[0, 1, :3, :3].mean())
    assert torch.allclose(found[0, 0, 4, 3], values[0, 0, 2:7, 1:6].mean())


@pytest.mark.parametrize("speed", [0.0, 1.7])
def test_rain_that_was_left_and_scene_that_was_taken_are_mended(speed: float) -> None:
    clean = [scene(speed * time) for time in range(6)]
    rng = np.random.default_rng(0)
    rainy = [add_rain(frame, LOOK, rng) for frame in clean]
    # A derainer that leaves a third of the rain, and takes a dark stroke from the scene, elsewhere each time.
    derained = [
        np.rint(frame + (wet.astype(float) - frame) / 3).astype(np.uint8)
        for frame, wet in zip(clean, rainy, strict=True)
    ]
    for number, frame in enumerate(derained):
        frame[20:50, 20 + 9 * number : 23 + 9 * number] //= 2
    before, after = mean_psnr(derained, clean), mean_psnr(steadied(rainy, derained), clean)
    assert after > before + 3


def test_a_downpour_that_is_in_every_frame_does_not_come_back() -> None:
    layer = RainLayer(length=9, width=1.6, angle=5, density=260, blur=0.4, brightness=0.5)
    rng, clean = np.random.default_rng(1), [scene(time) for time in range(6)]
    rainy = [add_rain(frame, RainLook((layer,)), rng) for frame in clean]
    assert mean_psnr(rainy, clean) < 20
    assert mean_psnr(steadied(rainy, clean), clean) > 45


# A faint thing cannot be told from rain, and loses a few levels.
@pytest.mark.parametrize("colour", [(250, 240, 40), (10, 5, 0), None])
def test_what_moves_does_not_ghost(colour: tuple[int, int, int] | None) -> None:
    clean = []
    for time in range(7):
        frame = scene()
        # Faster than its own width, so that no alignment finds it.
        thing = frame[20:40, 4 + 13 * time : 12 + 13 * time]
        thing[:] = thing + 14 if colour is None else colour
        clean.append(frame)
    for result, frame in zip(steadied(clean, clean), clean, strict=True):
        assert np.abs(result.astype(int) - frame).max() <= (9 if colour is None else 7)


def test_a_cut_leaves_both_scenes_alone() -> None:
    clean = [scene(), scene(), 255 - scene(40, 30), 255 - scene(40, 30)]
    for result, frame in zip(steadied(clean, clean), clean, strict=True):
        assert np.abs(result.astype(int) - frame).mean() < 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (33, 70)])
def test_every_frame_comes_back_in_its_kind(
    kind: type[np.generic], count: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, np.iinfo(kind).max, (*size, 3)).astype(kind) for _ in range(count)]
    results = steadied(frames, frames)
    assert [(one.shape, one.dtype) for one in results] == [((*size, 3), np.dtype(kind))] * count
    if count == 1:
        assert np.array_equal(results[0], frames[0])


def test_a_film_begins_anew_after_its_end() -> None:
    film = TemporalFilter()
    film.push(scene(), scene())
    film.end()
    assert film.end() is None
    assert film.push(scene(3), scene(3)) is None
    last = film.end()
    assert last is not None
    assert np.array_equal(last, scene(3))
