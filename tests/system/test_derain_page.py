"""The derain service's page in a real browser: what people drop comes back, is shown, and can be kept."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from playwright.sync_api import Locator, Page, expect
from skimage import data
from torch import Tensor, nn

from rgsud.api import Derainer
from rgsud.serving.app import create_app
from rgsud.serving.work import Deraining, WorkSettings
from rgsud_core.http.limits import Limits
from rgsud_core.http.security import Tokens
from tests.pool_store.servers import serving
from tests.system.conftest import CHROMIUM

TOKEN = "a-token-of-some-length"
WIDEST = """
Math.max(document.documentElement.scrollWidth,
  ...[...document.querySelectorAll("main *, header *")].map((node) => node.getBoundingClientRect().right))
"""
DROP = """
(name) => {
  const carried = new DataTransfer();
  carried.items.add(new File(["no photograph"], name, { type: "text/plain" }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
    document.querySelector("#main").dispatchEvent(event);
  }
}
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


class Dimmed(nn.Module):
    """Half as bright; waits where it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.going = threading.Event()
        self.going.set()

    def forward(self, x: Tensor) -> Tensor:
        assert self.going.wait(60)
        return x / 2


@pytest.fixture
def network() -> Dimmed:
    return Dimmed()


@pytest.fixture
def start(network: Dimmed) -> Iterator[Callable[..., str]]:
    """Starts the service; its URL."""
    with contextlib.ExitStack() as endings:

        def start(tokens: Tokens | None = None, limits: Limits | None = None, **settings: Any) -> str:
            settings = {"workers": 1} | settings
            work = Deraining(Derainer(network, device="cpu"), WorkSettings(**settings))
            app = create_app(work, "tiny", tokens, limits)
            endings.enter_context(contextlib.closing(work))
            return f"http://127.0.0.1:{endings.enter_context(serving(app, limits))}"

        yield start
        network.going.set()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A PNG, a JPEG and a TIFF of 16 bits, which browsers do not show."""
    pixels = data.astronaut()[:160, 100:340]
    paths = [tmp_path / name for name in ("street.png", "straße & park.jpg", "deep.tif")]
    for path in paths[:2]:
        PIL.Image.fromarray(pixels).save(path)
    tifffile.imwrite(paths[2], pixels.astype(np.uint16) * 257, photometric="rgb")
    return paths


def done(page: Page) -> Locator:
    return page.locator("#list li[data-state=done]")


def test_photographs_come_back_are_compared_and_kept(
    start: Callable[..., str], visit: Callable[..., Page], files: list[Path]
) -> None:
    url = start()
    page = visit("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    expect(page.get_by_role("button", name="Choose photographs")).to_be_visible()
    page.set_input_files("#choose", files)
    expect(done(page)).to_have_count(3)
    expect(page.locator("#state span")).to_have_text("3 derained")

    # The slider, by keys and by pointer.
    slider = page.get_by_role("slider", name="How much of the rainy photograph is shown")
    stage = page.locator("#stage")
    expect(stage).to_have_attribute("data-shown", "both")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "60"
    box = stage.bounding_box()
    assert box
    handle = page.locator("#stage .handle").bounding_box()
    assert handle
    assert handle["x"] == pytest.approx(box["x"] + 0.6 * box["width"], abs=2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60, steps=4)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(25, abs=1)

    # The lens moves by keys, and shows something else elsewhere.
    page.get_by_role("radio", name="Slider").focus()
    page.keyboard.press("ArrowRight")
    lens = page.locator("#stage .lens")
    seen = "document.querySelector('.lens canvas').toDataURL()"
    before = page.evaluate(seen)
    lens.focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate(seen) != before

    # What was taken, a picture of its own: half of the light.
    page.get_by_role("radio", name="What was taken").check()
    expect(page.locator("#gain")).to_have_text(re.compile(r"Differences, [2-9] times as strong"))
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save this picture").click()
    assert saving.value.suggested_filename == "street-rain.png"
    taken = np.asarray(PIL.Image.open(saving.value.path()).convert("RGB"), float)
    assert np.corrcoef(taken.ravel(), data.astronaut()[:160, 100:340].ravel())[0, 1] > 0.95

    # One, and all.
    with page.expect_download() as saving:
        page.get_by_role("button", name="Download", exact=True).click()
    assert saving.value.suggested_filename == "street-derained.png"
    found = np.asarray(PIL.Image.open(saving.value.path()))
    assert np.abs(found - data.astronaut()[:160, 100:340] / 2).max() <= 1
    with page.expect_download() as saving:
        page.get_by_role("button", name="Download all 3").click()
    with zipfile.ZipFile(saving.value.path()) as archive:
        assert archive.testzip() is None
        names = ["street-derained.png", "straße & park-derained.jpg", "deep-derained.tif"]
        assert archive.namelist() == names
        assert tifffile.imread(io.BytesIO(archive.read(names[2]))).dtype == np.uint16
    assert {re.match(r"blob:|[^/]*//[^/]*", one)[0] for one in asked} <= {url, "blob:"}  # type: ignore[index]


def test_what_a_browser_cannot_show_is_shown(
    start: Callable[..., str], visit: Callable[..., Page], files: list[Path]
) -> None:
    page = visit(start())
    page.set_input_files("#choose", files[2])
    expect(done(page)).to_have_count(1)
    expect(page.locator("#stage")).to_have_attribute("data-shown", "both")
    expect(page.locator("#facts")).to_contain_text("240 × 160")


def test_what_goes_wrong_is_a_sentence_and_the_others_go_on(
    start: Callable[..., str], visit: Callable[..., Page], files: list[Path], tmp_path: Path
) -> None:
    page = visit(start(limits=Limits(body=200_000), pixels=50_000))
    large, many = tmp_path / "large.png", tmp_path / "many.png"
    large.write_bytes(bytes(300_000))
    PIL.Image.new("RGB", (400, 300)).save(many)
    page.evaluate(DROP, "notes.txt")
    page.set_input_files("#choose", [large, many, files[0]])
    failed = page.locator("#list li[data-state=failed]")
    expect(failed).to_have_count(3)
    expect(failed.nth(0)).to_contain_text("no image that can be read")
    expect(failed.nth(1)).to_contain_text("the service takes 196 kB")
    expect(failed.nth(2)).to_contain_text("more than 0.05 megapixels")
    expect(done(page)).to_have_count(1)
    expect(page.locator("#state span")).to_have_text("1 derained, 3 not")
    expect(page.locator("#said")).to_contain_text("Not derained")
    for _ in range(3):
        page.get_by_role("button", name=re.compile(r"^Remove (notes|large|many)")).first.click()
    expect(page.get_by_role("heading", name="street.png")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("button", name="Choose photographs")).to_be_visible()


def test_a_full_queue_is_waited_for(
    start: Callable[..., str], network: Dimmed, visit: Callable[..., Page], files: list[Path]
) -> None:
    page = visit(start(waiting=0))
    network.going.clear()
    page.set_input_files("#choose", files[:2])
    paused = page.locator("#list li[data-state=paused]")
    expect(paused).to_contain_text(re.compile(r"The service is busy: again in \d+ s"))
    network.going.set()
    expect(done(page)).to_have_count(2)


def test_asks_for_the_token(start: Callable[..., str], visit: Callable[..., Page], files: list[Path]) -> None:
    page = visit(start(Tokens([("read", TOKEN)])))
    dialog = page.get_by_role("dialog", name="This service needs a token")
    field = dialog.get_by_label("Token")
    expect(field).to_be_focused()
    field.fill("another-token-of-some-length")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("That token was refused")
    field.fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#state span")).to_have_text("Ready")
    page.set_input_files("#choose", files)
    expect(done(page)).to_have_count(3)
    kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href].join()")
    assert TOKEN not in kept


def test_fits_a_phone_and_the_colours_of_the_system(
    start: Callable[..., str], visit: Callable[..., Page], files: list[Path]
) -> None:
    url = start()
    page = visit(url, 360, 740, has_touch=True, is_mobile=True, color_scheme="dark")
    assert page.evaluate(WIDEST) <= 360
    page.set_input_files("#choose", files[:2])
    expect(done(page)).to_have_count(2)
    for name in ("Slider", "Lens", "What was taken"):
        page.get_by_role("radio", name=name).check()
        assert page.evaluate(WIDEST) <= 360
    ink = "getComputedStyle(document.body).color + getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ink) != visit(url, color_scheme="light").evaluate(ink)
