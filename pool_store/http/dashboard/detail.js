// One entry in full: the slider between the rainy image and its reward, where it comes from, how it got better.

import { json, part, show } from "./api.js";
import { clock, count, element, odds, reward, span, write } from "./format.js";
import { Rise, shade } from "./plots.js";

const THUMB = 160;

/** A seam between two images, moved by pointer, touch, and arrow keys. */
class Compare {
  constructor(place) {
    this.place = place;
    this.range = place.querySelector("input");
    const set = (share) => {
      this.range.value = 100 * Math.min(1, Math.max(0, share));
      this.follow();
    };
    const at = (event) => {
      const box = place.getBoundingClientRect();
      set((event.clientX - box.left) / box.width);
    };
    place.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      place.setPointerCapture(event.pointerId);
      this.range.focus({ focusVisible: false });
      at(event);
    });
    place.addEventListener("pointermove", (event) => place.hasPointerCapture(event.pointerId) && at(event));
    this.range.addEventListener("input", () => this.follow());
    this.follow();
  }

  follow() {
    this.place.style.setProperty("--split", `${this.range.value}%`);
    this.range.setAttribute("aria-valuetext", `${Math.round(this.range.value)} % rainy`);
  }
}

export class Detail {
  /** `neighbour(id, by)` names the entry to go on to; `moved(id)` is told what is shown, null when closed. */
  constructor(dialog, neighbour, moved) {
    this.dialog = dialog;
    this.moved = moved;
    this.neighbour = neighbour;
    this.compare = dialog.querySelector("#compare");
    new Compare(this.compare);
    this.rise = new Rise(dialog.querySelector("#history"));
    dialog.addEventListener("close", () => {
      this.id = null;
      moved(null);
    });
    dialog.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (event.target === dialog || button?.matches("[data-close]")) dialog.close();
      if (button?.dataset.go) {
        const id = neighbour(this.id, Number(button.dataset.go));
        if (id) this.open(this.pool, id);
      }
      if (button?.dataset.digest) this.choose(button.dataset.digest);
    });
    dialog.querySelector("#mode").addEventListener("change", (event) => {
      this.compare.classList.toggle("beside", event.target.value === "beside");
    });
    this.compare.querySelector(".after").addEventListener("load", (event) => {
      const { naturalWidth, naturalHeight } = event.target;
      this.compare.style.setProperty("--ratio", naturalWidth / naturalHeight);
    });
  }

  /** Shows an entry, with the dialog if it is closed. */
  async open(pool, id) {
    Object.assign(this, { pool, id, chosen: null, signature: null });
    write(this.dialog.querySelector("#detail-id"), id);
    for (const button of this.dialog.querySelectorAll("[data-go]")) {
      button.disabled = !this.neighbour(id, Number(button.dataset.go));
    }
    // Only what is shown can have the focus from the start.
    this.compare.classList.remove("alone");
    if (!this.dialog.open) this.dialog.showModal();
    this.moved(id);
    await this.refresh();
  }

  /** Reads the entry anew; where it got a better reward that is shown, unless another one was chosen. */
  async refresh() {
    if (!this.id) return;
    const { id, pool } = this;
    const found = await json(`v1/pools/${pool}/entries/${part(id)}`);
    if (this.id !== id) return;
    if (!found) {
      this.dialog.close();
      return;
    }
    const { entry, history } = found;
    const signature = JSON.stringify(found);
    this.age(entry.candidates[0]);
    if (signature === this.signature) return;
    this.signature = signature;
    this.entry = entry;
    this.history = history.length ? history : entry.candidates.map(({ digest, log_odds, lineage }) => (
      { digest, log_odds, step: lineage.step, stage: lineage.stage, time: lineage.time })).reverse();
    this.facts();
    this.rise.update(this.history);
    this.steps();
    this.pictures();
  }

  choose(digest) {
    this.chosen = digest === this.entry.candidates[0].digest ? null : digest;
    this.facts();
    this.steps();
    this.pictures();
  }

  shown() {
    return this.chosen ?? this.entry.candidates[0].digest;
  }

  async pictures() {
    const [after, before] = [this.compare.querySelector(".after"), this.compare.querySelector(".before")];
    after.alt = `Derained image of ${this.id}`;
    before.alt = `Rainy image ${this.id}`;
    show(after, `v1/pools/${this.pool}/blobs/${this.shown()}`);
    const source = await show(before, `v1/pools/${this.pool}/sources/${part(this.id)}`);
    this.compare.classList.toggle("alone", !source);
  }

  facts() {
    const best = this.entry.candidates[0];
    const past = this.chosen && this.history.find((item) => item.digest === this.chosen);
    const score = past ? past.log_odds : best.log_odds;
    write(this.dialog.querySelector(".score strong"), reward(score));
    write(this.dialog.querySelector(".score span"), `log-odds ${odds(score)}${past ? ", an earlier reward" : ""}`);
    write(this.compare.querySelector(".tag.right"), past ? `step ${count(past.step)}` : "reward");
    const { run, worker, stage, step } = best.lineage;
    const rows = [
      ["From", `stage ${stage}, step ${count(step)}`, `stage-${shade(stage)}`],
      ["Made", ""],
      ["Entered", `${count(this.entry.replacements)} ${this.entry.replacements === 1 ? "candidate" : "candidates"} so far`],
      ["Run", `${run}, worker ${worker}`],
      ["Blob", best.digest.slice(0, 16)],
    ];
    if (this.entry.candidates.length > 1) {
      rows.splice(3, 0, ["Kept", this.entry.candidates.map((candidate) => odds(candidate.log_odds)).join("  ")]);
    }
    this.dialog.querySelector("dl").replaceChildren(...rows.flatMap(([name, value, kind = ""]) => [
      element("dt", {}, name), element("dd", { class: kind }, value)]));
    this.age(best);
  }

  age(best) {
    const { time } = best.lineage;
    const place = this.dialog.querySelectorAll("dd")[1];
    if (place) write(place, `${clock(time)}, ${span(Date.now() / 1000 - time)} ago`);
  }

  /** The rewards of the past as thumbnails, where their images have not been swept yet. */
  steps() {
    const list = this.dialog.querySelector(".steps");
    while (list.children.length > this.history.length) list.lastChild.remove();
    this.history.forEach((item, index) => {
      if (!list.children[index]) list.append(element("li", {}, element("button", { type: "button" }, element("img", { alt: "" }), element("span"))));
      const [button] = list.children[index].children;
      button.dataset.digest = item.digest;
      button.className = `stage-${shade(item.stage)}`;
      button.setAttribute("aria-pressed", item.digest === this.shown());
      button.setAttribute("aria-label", `Reward of step ${item.step}, ${odds(item.log_odds)}`);
      write(button.lastChild, odds(item.log_odds));
      const image = button.firstChild;
      show(image, `v1/pools/${this.pool}/blobs/${item.digest}?width=${THUMB}`).then(() => {
        button.disabled = image.dataset.state === "none";
      });
    });
  }
}
