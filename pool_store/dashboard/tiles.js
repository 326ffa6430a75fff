// The row of figures.

import { bytes, count, element, odds, percent, span, write } from "./format.js";

const NAMES = ["Rewards", "Mean reward", "Acceptance", "Offers", "Storage", "Age of rewards"];
const NONE = "–";

export class Tiles {
  constructor(place) {
    this.tiles = NAMES.map((name) => {
      const value = element("strong", {}, NONE);
      const note = element("span", { class: "note" }, " ");
      const tile = element("div", { class: "tile" }, element("h2", {}, name), value, note);
      place.append(tile);
      return { tile, value, note };
    });
    this.bar = element("i");
    this.cover = element("div", { class: "cover", role: "progressbar", "aria-label": "Coverage of the data set",
      "aria-valuemin": 0, "aria-valuemax": 100 }, this.bar);
    this.tiles[0].tile.append(this.cover);
  }

  update(stats) {
    const { entries, size, coverage, offers, replacements, stale, ages } = stats;
    [
      [count(entries), coverage === null ? "data set of unknown size" : `of ${count(size)} images, ${percent(coverage)}`],
      [stats.mean_reward === null ? NONE : stats.mean_reward.toFixed(3),
        stats.mean_log_odds === null ? "no score yet" : `log-odds ${odds(stats.mean_log_odds)}`],
      [offers ? percent(stats.acceptance) : NONE, `${count(replacements)} entered the pool`],
      [count(offers), stale ? `and ${count(stale)} stale: another scorer’s` : "none stale"],
      [bytes(stats.blob_bytes), `in ${count(stats.blobs)} images`],
      [ages ? span(ages.median) : NONE, ages ? `median; ${span(ages.newest)} to ${span(ages.oldest)}` : "none yet"],
    ].forEach(([value, note], index) => {
      write(this.tiles[index].value, value);
      write(this.tiles[index].note, note);
    });
    this.tiles[3].note.classList.toggle("warn", stale > 0);
    this.cover.classList.toggle("unknown", coverage === null);
    this.cover.setAttribute("aria-valuenow", Math.round(100 * (coverage ?? 0)));
    this.bar.style.setProperty("--share", coverage ?? 0);
  }
}
