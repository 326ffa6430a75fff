"""The limits that SECURITY.md states are those that hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from iqa_service.serving.settings import ServiceSettings
from pool_store import transfer
from pool_store.http import limits as pool
from rgsud_core import images
from rgsud_core import settings as texts
from rgsud_core.http import limits as service

ROOT = Path(__file__).parents[1]
POOL, BOTH, SCORER = pool.Limits(), service.Limits(), ServiceSettings()


def mib(size: int) -> str:
    return f"{size / 2**20:g} MiB"


def megapixels(count: float) -> str:
    return f"{count / 1e6:g} megapixels"


LIMITS = {
    "body of a request to the pool": mib(POOL.body),
    "JSON body of a request to the pool": mib(POOL.json_body),
    "bodies held at a time, by each service": mib(BOTH.bodies),
    "values in a JSON body": f"{service.VALUES:,}",
    "ids in a request": f"{pool.IDS_A_REQUEST:,}",
    "offers in a request": f"{pool.OFFERS_A_REQUEST:,}",
    "images in an archive for the pool": f"{pool.IMAGES_A_REQUEST}",
    "snapshot to restore": mib(POOL.dump),
    "image in the pool": megapixels(POOL.pixels),
    "body of a request to the scorer": mib(SCORER.max_body_bytes),
    "image for the scorer": megapixels(SCORER.max_pixels),
    "images in a request to the scorer": f"{SCORER.max_images}",
    "requests a second of one address": f"{BOTH.rate:,.0f}",
    "requests answered at a time": f"{BOTH.requests}",
    "open connections": f"{BOTH.connections}",
    "head of a request": f"{service.HEAD_BYTES / 1024:g} KiB",
    "time for the head of a request": f"{service.HEAD_SECONDS:g} s",
    "time for which a body may pause": f"{service.STALLED_SECONDS:g} s",
    "image that a command reads": f"{images.MEGAPIXELS} megapixels",
    "image of an export that is imported": f"{transfer.MEGAPIXELS} megapixels",
    "text of a recipe": f"{texts.YAML_CHARACTERS:,} characters",
}


def stated() -> dict[str, str]:
    """The rows of the table of limits."""
    table = (ROOT / "SECURITY.md").read_text().partition("## Limits")[2]
    rows = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    return {cells[0].strip(): cells[1].strip() for cells in rows}


def test_every_row_is_held_against_its_constant() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["pool"]
    memory = compose["deploy"]["resources"]["limits"]["memory"].replace("g", " GiB")
    assert stated() == {**LIMITS, "memory of the pool's service under Compose": memory}


@pytest.mark.parametrize("option", ["--body-megabytes", "--dump-megabytes", "--megapixels", "--rate"])
def test_the_options_exist(option: str) -> None:
    assert option.removeprefix("--").replace("-", "_") in (ROOT / "pool_store" / "cli.py").read_text()
