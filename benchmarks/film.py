"""Films derained: what the temporal step is worth, against single frames and a median of three.

    python benchmarks/film.py [FILM ...] [--threads 1] [--quick] [--json FILE] [--page FILE]

Films are photographs that come with the packages, panned and zoomed, with patches that move over them
(film_scenes.py), and the first frames of each FILM, which is taken to be free of rain, at 320 pixels wide.
The rain is rendered, with fresh drops in every frame. Derained by rgsud-base. Measured, over all frames of
a film:
- PSNR against the clean film, all three colours;
- flicker: the root mean square of what changes from one frame to the next in the difference to the clean
  film, in levels of 255;
- warping error: mean difference between a frame and the one before it, aligned by the optical flow of the
  clean film (TV-L1, of scikit-image: not the flow that the temporal step uses), where that aligns the clean
  film to 8 levels;
- PSNR where it does not: what moves fast, what it uncovers, where ghosts would be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
import PIL.Image
import scipy.ndimage
import torch
from film_scenes import SCENES, clean_frames
from numpy.typing import NDArray
from pages import commit, fill, parser, processor, report, table
from skimage.registration import optical_flow_tvl1

from rgsud.api import Derainer
from rgsud_core.degradation.rendered import RainLook, add_rain, dense_look, random_look
from rgsud_core.images import Image
from rgsud_core.quality import psnr
from trainer.restore.sheets import Panel, contact_sheet

Frames = NDArray[np.uint8]
"""The frames of a film, T,H,W,3."""
PAGE = Path(__file__).parent / "results" / "film.md"
WIDTH = 320
ALIGNED = 8
WAYS = ("rainy", "median of 3", "frame by frame", "temporal")


@dataclass(frozen=True)
class Rain:
    """A kind of rain."""

    name: str
    draw: Callable[[np.random.Generator], RainLook]


RAINS = (Rain("shower", random_look), Rain("downpour", dense_look))


def film_frames(path: str, count: int) -> Iterator[Image]:
    """The first frames of a file, 320 pixels wide."""
    with av.open(path) as film:
        for frame in islice(film.decode(video=0), count):
            image = frame.to_image()
            height = WIDTH * image.height // image.width
            yield np.asarray(image.resize((WIDTH, height), PIL.Image.Resampling.LANCZOS))


def shower(clean: Frames, rain: Rain, seed: int) -> Frames:
    """The film in one rain, with other drops in every frame, that costs it 20 to 32 dB."""
    rng = np.random.default_rng(seed)
    while True:
        look = rain.draw(rng)
        if 20 < psnr(add_rain(clean[0], look, rng), clean[0]) < 32:
            return np.stack([add_rain(frame, look, rng) for frame in clean])


def median(frames: Frames) -> Frames:
    """Each pixel's median of the frame, the one before it and the one after it."""
    inner = np.median(np.stack([frames[:-2], frames[1:-1], frames[2:]]), 0).astype(np.uint8)
    return np.concatenate([frames[:1], inner, frames[-1:]])


class Motion:
    """How a clean film moves: each frame's flow to the one before it, and where that aligns them."""

    def __init__(self, clean: Frames) -> None:
        self._places: list[NDArray[np.float64]] = []
        self.aligned = np.ones(clean.shape[:3], bool)
        grid = np.stack(np.mgrid[: clean.shape[1], : clean.shape[2]]).astype(float)
        grey = clean.mean(-1) / 255
        for number in range(1, len(clean)):
            self._places.append(grid + optical_flow_tvl1(grey[number], grey[number - 1]))
            change = np.abs(self.warp(clean, number) - clean[number]).mean(-1)
            self.aligned[number] = change < ALIGNED

    def warp(self, frames: Frames, number: int) -> NDArray[np.float64]:
        """The frame before a frame, as seen from it."""
        before, places = frames[number - 1].astype(float), self._places[number - 1]
        return np.stack(
            [
                scipy.ndimage.map_coordinates(before[..., c], places, order=1, mode="nearest")
                for c in range(3)
            ],
            -1,
        )

    def error(self, frames: Frames) -> float:
        """Warping error, levels of 255."""
        errors = [
            np.abs(self.warp(frames, number) - frames[number]).mean(-1)[self.aligned[number]]
            for number in range(1, len(frames))
        ]
        return float(np.concatenate(errors).mean())


def measure(frames: Frames, clean: Frames, motion: Motion) -> dict[str, float]:
    """The figures of one film."""
    difference = frames.astype(float) - clean
    return {
        "psnr": psnr(frames, clean),
        "flicker": float(np.sqrt(np.square(np.diff(difference, axis=0)).mean())),
        "warping": motion.error(frames),
        "unaligned_psnr": psnr(frames[~motion.aligned], clean[~motion.aligned]),
    }


def lines(figures: dict[str, float], films: Sequence[str], key: str, form: str) -> list[list[str]]:
    """A row for each film, and one of means."""
    rows = [[film, *(figures[f"{film}/{way}/{key}"] for way in WAYS)] for film in films]
    rows.append(["mean", *(float(np.mean([row[n] for row in rows])) for n in range(1, len(WAYS) + 1))])
    return [[row[0], *(format(value, form) for value in row[1:])] for row in rows]


def main() -> None:
    program = parser(__doc__)
    program.add_argument("films", nargs="*", help="clean films")
    program.add_argument("--threads", type=int, default=1)
    program.add_argument("--page", type=Path)
    options = program.parse_args()
    torch.set_num_threads(options.threads)
    count = 6 if options.quick else 24
    sources: dict[str, Callable[[], Iterator[Image]]] = {
        name: lambda scene=scene: clean_frames(scene, count)  # type: ignore[misc]
        for name, scene in list(SCENES.items())[: 1 if options.quick else None]
    }
    for path in options.films:
        sources[Path(path).name] = lambda path=path: film_frames(path, count)  # type: ignore[misc]
    derainer = Derainer.load(device="cpu")
    figures: dict[str, float] = {}
    films: list[str] = []
    sheet: list[list[Panel]] = []
    seconds = dict.fromkeys(WAYS, 0.0)
    for name, source in sources.items():
        clean = np.stack(list(source()))
        motion = Motion(clean)
        figures[f"{name}/clean/warping"] = motion.error(clean)
        for number, rain in enumerate(RAINS):
            film = f"{name}, {rain.name}"
            films.append(film)
            rainy = shower(clean, rain, 100 * len(films) + number)
            made = {"rainy": rainy}
            for way in WAYS[2:]:
                started = time.perf_counter()
                made[way] = np.stack(list(derainer.frames(rainy, frame_by_frame=way == WAYS[2])))
                seconds[way] += (time.perf_counter() - started) / len(clean)
            made["median of 3"] = median(made["frame by frame"])
            for way, frames in made.items():
                found = measure(frames, clean, motion)
                figures |= {f"{film}/{way}/{key}": value for key, value in found.items()}
                print(film, way, {key: round(value, 2) for key, value in found.items()}, flush=True)
            middle = len(clean) // 2
            if number == len(sheet) % 2:
                shown = [*((way, made[way]) for way in WAYS), ("clean", clean)]
                sheet.append([Panel(frames[middle], f"{film}: {way}") for way, frames in shown])
    for way in WAYS[2:]:
        figures[f"{way}/seconds_per_frame"] = seconds[way] / len(films)
    report(figures, options.json)
    if options.page:
        contact_sheet(sheet, options.page.with_suffix(".jpg"), WIDTH)
        heads = ["", *WAYS]
        fill(
            "film.md",
            options.page,
            command=" ".join(Path(path).name for path in options.films),
            threads=options.threads,
            machine=processor(),
            commit=commit(),
            count=count,
            scenes=len(SCENES),
            films=len(films),
            psnr=table(heads, lines(figures, films, "psnr", ".2f")),
            flicker=table(heads, lines(figures, films, "flicker", ".2f")),
            warping=table(heads, lines(figures, films, "warping", ".2f")),
            unaligned=table(heads, lines(figures, films, "unaligned_psnr", ".2f")),
            clean=max(figures[f"{name}/clean/warping"] for name in sources),
            single=figures["frame by frame/seconds_per_frame"],
            steadied=figures["temporal/seconds_per_frame"],
        )


if __name__ == "__main__":
    main()
