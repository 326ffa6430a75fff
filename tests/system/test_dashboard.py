"""The dashboard in a real browser: what it shows, that it is live, and that hands and keys find their way."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from skimage import data

from pool_store.client import Pool, open_pool
from pool_store.schemas import Decision, Lineage, Offer
from rgsud_core.images import Image
from tests.patience import wait_until
from tests.system.conftest import CHROMIUM

SCORER = "scorer-a"
NAMES = [f"street/{number:03d}" for number in range(27)] + ["odd & one 100%"]
TOKEN = "a-token-that-may-read-and-write"
MARK = """
window.reloaded = [];
const watch = new MutationObserver((changes) => {
  for (const { target } of changes) {
    window.reloaded.push(`${target.className} of ${target.closest(".card").dataset.id}`);
  }
});
for (const card of document.querySelectorAll(".card")) {
  card.mark = card.dataset.id;
  for (const image of card.querySelectorAll("img[data-state=shown]")) {
    watch.observe(image, { attributeFilter: ["src"] });
  }
}
"""
WIDEST = """
Math.max(document.documentElement.scrollWidth, document.querySelector("#detail").scrollWidth,
  ...[...document.querySelectorAll("main *, header *")].map((node) => node.getBoundingClientRect().right))
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


def rainy(number: int) -> Image:
    """A part of a photograph under drawn streaks."""
    top, left = 37 * number % 400, 53 * number % 380
    image: Image = data.astronaut()[top : top + 80, left : left + 120].copy()
    image[:, (number % 7) :: 9] = 255
    return image


def derained(number: int, quality: int) -> Image:
    clean: Image = data.astronaut()[37 * number % 400 :, 53 * number % 380 :][:80, :120]
    return np.clip(clean.astype(int) + 9 - quality, 0, 255).astype(np.uint8)


def offer(pool: Pool, number: int, quality: int, log_odds: float) -> Decision:
    digest = pool.put_image(derained(number, quality))
    lineage = Lineage(run="walk", step=1000 * quality, stage=1 + quality // 3, time=time.time())
    return pool.offer(
        Offer(id=NAMES[number], log_odds=log_odds, fingerprint=SCORER, digest=digest, lineage=lineage)
    )


@pytest.fixture(scope="module")
def service(serve: Callable[..., Any]) -> Any:
    return serve()


@pytest.fixture(scope="module")
def filled(service: Any) -> Iterator[tuple[Pool, dict[str, Any]]]:
    """A pool of 28 images with log-odds of 0.1, 0.2 and so on, and its contents."""
    pool = open_pool(f"{service.url}/walk", fingerprint=SCORER)
    pool.declare_size(40)
    for number, name in enumerate(NAMES):
        pool.put_source(name, rainy(number))
        offer(pool, number, 1, 0.1 * (number + 1))
    yield pool, pool.dump()
    pool.close()


@pytest.fixture
def pool(filled: tuple[Pool, dict[str, Any]]) -> Pool:
    pool, contents = filled
    pool.restore(contents)
    return pool


def names(page: Page) -> list[str]:
    return page.locator(".card .name").all_inner_texts()


def shown(page: Page) -> None:
    """Waits until the first cards have both images."""
    expect(page.locator(".card img.after").first).to_have_attribute("data-state", "shown")
    expect(page.locator(".card img.before").first).to_have_attribute("data-state", "shown")


def tile(page: Page, name: str) -> Any:
    return page.locator(".tile", has=page.get_by_role("heading", name=name, exact=True))


def test_shows_the_pool_in_figures_plots_and_cards(
    service: Any, pool: Pool, visit: Callable[..., Page]
) -> None:
    page = visit(service.url)
    expect(page.locator(".card")).to_have_count(24)
    shown(page)
    expect(page).to_have_title("walk · Reward pool")
    expect(tile(page, "Rewards")).to_contain_text("28of 40 images, 70.0")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "70")
    expect(tile(page, "Mean reward")).to_contain_text("log-odds +1.45")
    expect(tile(page, "Acceptance")).to_contain_text("100.0")
    expect(tile(page, "Offers")).to_contain_text("none stale")
    expect(tile(page, "Storage")).to_contain_text("in 28 images")
    expect(page.locator("#scores svg")).to_have_attribute("aria-label", re.compile(r"median \+1\.\d"))
    assert page.locator("#scores .column").count() > 3
    expect(page.locator("#timeline svg")).to_have_attribute("aria-label", re.compile("last 100.0"))
    expect(page.locator("#stages")).to_contain_text("28 of 28 offers accepted")
    expect(page.locator("#state")).to_contain_text("Live")
    expect(page.locator("#shown")).to_have_text("1 to 24 of 28")
    assert page.evaluate("window.shifted") < 0.01
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.locator(".card")).to_have_count(4)


def test_is_live_and_touches_only_what_changed(service: Any, pool: Pool, visit: Callable[..., Page]) -> None:
    page = visit(service.url)
    expect(page.locator(".card")).to_have_count(24)
    shown(page)
    before = names(page)
    page.evaluate(MARK)
    assert offer(pool, 0, 5, 0.25).status == "replaced"
    expect(tile(page, "Offers").locator("strong")).to_have_text("29")
    expect(page.locator(".card .name").first).to_have_text(NAMES[1])
    assert names(page) == [before[1], before[0], *before[2:]]
    assert page.evaluate(
        "[...document.querySelectorAll('.card')].every((card) => card.mark === card.dataset.id)"
    )
    expect(page.locator(".card").nth(1)).to_contain_text("stage 2, step 5,000")
    wait_until(lambda: page.evaluate("window.reloaded.length"), "the better image is not shown")
    assert page.evaluate("window.reloaded") == [f"after of {NAMES[0]}"]
    expect(page.locator("#stages")).to_contain_text("Stage 2")


def test_cards_stay_while_somebody_is_at_them(service: Any, pool: Pool, visit: Callable[..., Page]) -> None:
    page = visit(service.url)
    expect(page.locator(".card")).to_have_count(24)
    before = names(page)
    page.locator(".card").nth(2).hover()
    offer(pool, 0, 5, 0.25)
    expect(page.locator(".card").first.locator(".odds")).to_have_text("+0.25")
    assert names(page) == before
    expect(page.locator("#shown")).to_contain_text("order waits while you look")
    page.mouse.move(2, 2)
    expect(page.locator(".card .name").first).to_have_text(NAMES[1])


def test_the_slider_moves_by_mouse_and_by_keys(service: Any, pool: Pool, visit: Callable[..., Page]) -> None:
    page = visit(service.url)
    page.locator(".card").nth(3).click()
    slider = page.get_by_role("slider")
    compare = page.locator("#compare")
    expect(compare.locator("img.before")).to_have_attribute("data-state", "shown")
    expect(slider).to_be_focused()
    seam = "document.querySelector('#compare .handle').getBoundingClientRect().left"
    start = page.evaluate(seam)
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "60"
    box = compare.bounding_box()
    assert box
    assert page.evaluate(seam) == pytest.approx(start + box["width"] / 10, abs=2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60, steps=4)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(25, abs=1)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    assert float(slider.input_value()) == pytest.approx(25, abs=1)
    page.get_by_role("radio", name="Side by side").check()
    left, right = (compare.locator(f"img.{side}").bounding_box() for side in ("before", "after"))
    assert left
    assert right
    assert left["x"] + left["width"] <= right["x"]


def test_sort_and_filter_change_what_is_shown(service: Any, pool: Pool, visit: Callable[..., Page]) -> None:
    page = visit(service.url)
    first = page.locator(".card .name").first
    expect(first).to_have_text(NAMES[0])
    page.get_by_role("radio", name="Worst first").focus()
    page.keyboard.press("ArrowRight")
    expect(first).to_have_text(NAMES[27])
    offer(pool, 5, 4, 1.0)
    page.keyboard.press("ArrowRight")
    expect(first).to_have_text(NAMES[5])
    page.get_by_role("searchbox").fill("street/01")
    expect(page.locator(".card")).to_have_count(10)
    page.get_by_label("Lowest score").fill("1.55")
    expect(page.locator(".card")).to_have_count(5)
    page.reload()
    expect(page.locator(".card")).to_have_count(5)
    page.get_by_label("Highest score").fill("1.5")
    expect(page.get_by_text("No reward matches")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(24)
    # A column of the histogram is a range too.
    page.locator("#scores svg").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#scores output")).to_contain_text(" at ")
    page.keyboard.press("Enter")
    expect(page.locator("#shown")).not_to_contain_text("of 28")
    expect(page.get_by_label("Highest score")).not_to_have_value("")


def test_a_card_opens_and_closes_by_keys_and_tells_its_history(
    service: Any, pool: Pool, visit: Callable[..., Page]
) -> None:
    for quality, log_odds in ((3, 3.0), (6, 3.5)):
        offer(pool, 27, quality, log_odds)
    page = visit(f"{service.url}/#sort=best")
    card = page.locator(".card").first
    expect(card).to_have_accessible_name(re.compile(r"odd & one 100%: reward 0\.971, stage 3, step 6000"))
    card.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="odd & one 100%")
    expect(dialog).to_contain_text("log-odds +3.50")
    expect(dialog).to_contain_text("stage 3, step 6,000")
    expect(dialog).to_contain_text("3 candidates so far")
    expect(dialog.locator(".steps button")).to_have_count(3)
    expect(dialog.locator(".steps img").first).to_have_attribute("data-state", "shown")
    expect(dialog.locator("#history .dot")).to_have_count(3)
    expect(dialog.locator("#compare img.before")).to_have_attribute("data-state", "shown")
    dialog.locator(".steps button").first.click()
    expect(dialog).to_contain_text("an earlier reward")
    expect(dialog.locator("#compare .right")).to_have_text("step 1,000")
    dialog.get_by_role("button", name="Next image").click()
    expect(page.get_by_role("dialog", name=NAMES[26])).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(card).to_be_focused()


def test_a_swept_reward_of_the_past_is_told_without_its_image(
    service: Any, visit: Callable[..., Page]
) -> None:
    with contextlib.closing(open_pool(f"{service.url}/swept", fingerprint=SCORER)) as pool:
        offer(pool, 0, 1, 1.0)
        offer(pool, 0, 2, 2.0)
        assert pool.sweep(0).blobs == 1
        page = visit(f"{service.url}/#pool=swept")
        page.locator(".card").click()
        steps = page.locator("#detail .steps button")
        expect(steps).to_have_count(2)
        expect(steps.first).to_be_disabled()
        expect(steps.last).to_be_enabled()
        pool.drop()


@pytest.mark.parametrize("opened", [False, True], ids=["page", "dialog"])
def test_fits_a_phone(service: Any, pool: Pool, visit: Callable[..., Page], opened: bool) -> None:
    page = visit(service.url, 360, 740, has_touch=True, is_mobile=True)
    page.locator(".card").first.scroll_into_view_if_needed()
    shown(page)
    if opened:
        page.locator(".card").first.tap()
        expect(page.locator("#detail img.before")).to_have_attribute("data-state", "shown")
    assert page.evaluate(WIDEST) <= 360


def test_follows_the_colours_of_the_system(service: Any, pool: Pool, visit: Callable[..., Page]) -> None:
    ink = "getComputedStyle(document.body).color + getComputedStyle(document.body).backgroundColor"
    light, dark = (visit(service.url, color_scheme=scheme).evaluate(ink) for scheme in ("light", "dark"))
    assert light != dark


def test_says_when_the_service_is_gone_and_goes_on_when_it_is_back(
    serve: Callable[..., Any], visit: Callable[..., Page]
) -> None:
    service = serve()
    pool = open_pool(f"{service.url}/walk", fingerprint=SCORER)
    offer(pool, 0, 1, 1.0)
    page = visit(service.url)
    expect(page.locator(".card .odds")).to_have_text("+1.00")
    service.stop()
    expect(page.get_by_role("status").first).to_have_text(
        re.compile(r"^Not answering since \d\d:\d\d:\d\d, retrying$")
    )
    expect(page.locator(".card .odds")).to_have_text("+1.00")
    service.start()
    offer(pool, 0, 2, 2.0)
    expect(page.locator("#state")).to_contain_text("Live")
    expect(page.locator(".card .odds")).to_have_text("+2.00")
    pool.close()


def test_asks_for_the_token_and_shows_images_with_it(
    serve: Callable[..., Any], visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(RGSUD_POOL_TOKEN=TOKEN)
    monkeypatch.setenv("RGSUD_POOL_TOKEN", TOKEN)
    pool = open_pool(f"{service.url}/walk", fingerprint=SCORER)
    pool.put_source(NAMES[0], rainy(0))
    offer(pool, 0, 1, 1.0)
    pool.close()
    page = visit(service.url)
    dialog = page.get_by_role("dialog", name="This pool needs a token")
    field = dialog.get_by_label("Token")
    expect(field).to_be_focused()
    page.keyboard.press("Escape")
    field.fill("another-token-of-some-length")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("That token was refused")
    field.fill(TOKEN)
    page.keyboard.press("Enter")
    shown(page)
    expect(dialog).to_be_hidden()
    page.reload()
    shown(page)
    expect(dialog).to_be_hidden()
    kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href].join()")
    assert TOKEN not in kept


def test_says_what_to_do_while_there_is_nothing_to_show(
    serve: Callable[..., Any], visit: Callable[..., Page]
) -> None:
    service = serve()
    page = visit(service.url)
    expect(page.get_by_role("heading", name="No pool yet")).to_be_visible()
    expect(page.locator("#empty pre")).to_have_text(f"pool: {service.url}/my-pool")
    open_pool(f"{service.url}/rain", fingerprint=SCORER).close()
    expect(page.get_by_role("heading", name="No reward yet")).to_be_visible()
    expect(page.locator("#empty pre")).to_have_text(f"pool: {service.url}/rain")
    pool = open_pool(f"{service.url}/walk", fingerprint=SCORER)
    offer(pool, 0, 1, 1.0)
    pool.close()
    page.get_by_role("combobox", name="Pool").select_option("walk")
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".pair")).to_have_class("pair alone")
