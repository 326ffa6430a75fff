"""A recipe to begin with for folders of one's own, from what is measured of them."""

from __future__ import annotations

import copy
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from rgsud_core.settings import read_yaml
from trainer.data.measuring import FolderFacts, count_found_rain, measure_folder
from trainer.errors import TrainerError

_BASE = "rain100l-mini"
_SMALLEST_CROP = 32
_ENOUGH = 0.1
"""Share of the photographs in which rain must be found to be learned from alone."""
_REWARDED = 400
"""Rainy images of which half get a reward in time at the pace of the recipe."""


def starting_recipe(rainy: Path | str, clean: Path | str) -> str:
    """A recipe as YAML, with what was measured in comments.

    It is that of `rain100l-mini`, from the derainer that comes with rgsud: with rain found in the photographs
    where there is enough, else with rendered rain as well or alone; crops that fit into the smallest image;
    and candidates often enough for all rainy images.

    Raises:
        RgsudError: a folder holds no images, or some that cannot be read or are too small to learn from.
    """
    measured = measure_folder(rainy), measure_folder(clean)
    tree: dict[str, Any] = read_yaml((files("trainer") / "recipes" / f"{_BASE}.yaml").read_text())
    side = min(min(facts.smallest) for facts in measured)
    crop = min(tree["data"]["crop"], side // 8 * 8)
    if crop < _SMALLEST_CROP:
        tight = min(measured, key=lambda facts: min(facts.smallest))
        raise TrainerError(
            f"An image of {tight.root} is {tight.smallest[0]}x{tight.smallest[1]}: remove those with a side "
            f"below {_SMALLEST_CROP} pixels, nothing can be learned from them."
        )
    found, searched = count_found_rain(rainy, crop)
    sources, why = _sources(found, searched)
    comments = [
        f"A recipe to begin with, made from {_BASE} by what was measured of the folders.",
        f"For {Path(rainy).resolve()}",
        "  rgsud train FILE                 # this file; data.validation_rainy=... data.validation_clean=...",
        "",
        *(_said(name, facts) for name, facts in zip(("rainy", "clean"), measured, strict=True)),
        f"Rain was found in front of flat places of {found} of {searched} rainy photographs: {why}.",
    ]
    tree |= {
        "name": re.sub(r"\W+", "-", Path(rainy).resolve().name).strip("-") or "mine",
        "data": {
            "rainy": str(Path(rainy).resolve()),
            "clean": str(Path(clean).resolve()),
            **tree["data"],
            "crop": crop,
        },
        "start": "rgsud-base",
        "method": tree["method"] | sources,
    }
    if measured[0].images > _REWARDED:
        every = max(4, math.floor(tree["recycling"]["every"] * _REWARDED / measured[0].images))
        tree["recycling"]["every"] = every
        comments.append(
            f"With {measured[0].images} rainy images a candidate is made every {every} steps, so that half "
            "of them may have a reward when stage 2 begins; more schedule.seconds serve too."
        )
    # Names of folders may hold line breaks, or bytes that are no text.
    head = [re.sub(r"[\x00-\x1f\x7f]", " ", f"# {line}".rstrip()) for line in comments]
    text = "\n".join(head).encode(errors="backslashreplace").decode()
    return f"{text}\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)}"


def _sources(found: int, searched: int) -> tuple[dict[str, Any], str]:
    """Settings of the method, and why."""
    if found >= _ENOUGH * searched and found > 1:
        return {}, "enough to learn from alone"
    flat = [{"name": "flat", "share": "50%"}] if found else []
    rendered = {"name": "rendered", "dense": "70%"}
    # Copies, since YAML would refer from one to the other.
    stages = {
        stage: copy.deepcopy([*more, *flat, rendered]) for stage, more in ((1, []), (2, ["reward_smooth"]))
    }
    settings: dict[str, Any] = {"sources": stages, "overlay": "add"}
    if found:
        return settings, "too little alone, rendered rain is added"
    return settings | {"camera": {}}, "none, so it is rendered"


def _said(name: str, facts: FolderFacts) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts.formats)
    quality = "" if facts.quality is None else f" (JPEG quality {facts.quality})"
    sizes = " to ".join(
        dict.fromkeys(f"{width}x{height}" for width, height in (facts.smallest, facts.largest))
    )
    left_out = f"; {facts.left_out} entries are no images" if facts.left_out else ""
    return f"{name}: {facts.images} images, {kinds}{quality}, {sizes}{left_out}"
