// The cards: one for every entry of the page shown. Only what changed is touched.

import { part, show } from "./api.js";
import { count, element, odds, reward, span, write } from "./format.js";
import { shade } from "./plots.js";

const WIDTH = 480;

export class Gallery {
  /** `open(id)` is called for the card chosen. */
  constructor(grid, open) {
    this.grid = grid;
    this.cards = new Map();
    this.entries = [];
    this.template = document.getElementById("card").content.firstElementChild;
    grid.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) open(card.dataset.id);
    });
    // The seam follows the pointer, and rests in the middle.
    grid.addEventListener("pointermove", (event) => {
      const pair = event.pointerType === "mouse" && event.target.closest(".pair");
      if (!pair) return;
      const box = pair.getBoundingClientRect();
      pair.style.setProperty("--split", `${(100 * (event.clientX - box.left)) / box.width}%`);
    });
    grid.addEventListener("pointerout", (event) => {
      const pair = event.target.closest(".pair");
      if (pair && !pair.contains(event.relatedTarget)) pair.style.removeProperty("--split");
    });
    this.seen = new IntersectionObserver((changes) => {
      for (const { target, isIntersecting } of changes) {
        target.inView = isIntersecting;
        if (isIntersecting) this.load(target);
      }
    }, { rootMargin: "300px" });
  }

  /** Shows these entries in this order; cards that stay keep their place in memory, focus and images. */
  update(pool, entries, marked) {
    const focused = this.grid.contains(document.activeElement) ? document.activeElement : null;
    const wanted = new Set(entries.map((entry) => entry.id));
    for (const [id, card] of this.cards) {
      if (!wanted.has(id)) {
        this.seen.unobserve(card);
        card.remove();
        this.cards.delete(id);
      }
    }
    entries.forEach((entry, index) => {
      let card = this.cards.get(entry.id);
      if (!card) {
        card = this.template.cloneNode(true);
        card.dataset.id = entry.id;
        this.cards.set(entry.id, card);
      }
      this.fill(pool, card, entry, marked);
      if (this.grid.children[index] !== card) this.grid.insertBefore(card, this.grid.children[index] ?? null);
      if (!card.observed) this.seen.observe(card);
      card.observed = true;
    });
    this.entries = entries;
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  fill(pool, card, entry, marked) {
    const [best] = entry.candidates;
    const { step, stage, time } = best.lineage;
    const changed = card.digest !== undefined && card.digest !== best.digest;
    write(card.querySelector(".name"), entry.id);
    write(card.querySelector(".reward"), reward(best.log_odds));
    write(card.querySelector(".odds"), odds(best.log_odds));
    write(card.querySelector(".from"), `stage ${stage}, step ${count(step)}, ${span(Date.now() / 1000 - time)} ago`);
    card.querySelector(".from").className = `from stage-${shade(stage)}`;
    card.setAttribute("aria-label", `${entry.id}: reward ${reward(best.log_odds)}, stage ${stage}, step ${step}. Open`);
    card.source = `v1/pools/${pool}/sources/${part(entry.id)}?width=${WIDTH}`;
    card.reward = `v1/pools/${pool}/blobs/${best.digest}?width=${WIDTH}`;
    card.digest = best.digest;
    const before = card.querySelector(".before");
    if (changed && before.dataset.state === "none") delete before.dataset.path;
    if (card.inView) this.load(card);
    if (changed && marked) {
      card.classList.remove("changed");
      requestAnimationFrame(() => card.classList.add("changed"));
    }
  }

  async load(card) {
    const pair = card.querySelector(".pair");
    show(pair.querySelector(".after"), card.reward);
    pair.classList.toggle("alone", !(await show(pair.querySelector(".before"), card.source)));
  }

  /** The id so many places after this one in what is shown, null at either end. */
  neighbour(id, by) {
    const place = this.entries.findIndex((entry) => entry.id === id);
    return place < 0 ? null : this.entries[place + by]?.id ?? null;
  }

  /** Whether somebody is at the cards, so that they should not be moved away. */
  inUse() {
    return this.grid.matches(":has(:focus-visible)") || (matchMedia("(hover: hover)").matches && this.grid.matches(":hover"));
  }

  /** Whether these entries are the ones shown, in the same order. */
  sameOrder(entries) {
    return entries.length === this.entries.length && entries.every((entry, index) => entry.id === this.entries[index].id);
  }
}

/** A sentence in place of cards, with what to do. */
export function note(place, title, ...rest) {
  const text = title + rest.map((node) => node.textContent ?? node).join("");
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.replaceChildren(element("h2", {}, title), ...rest);
}
