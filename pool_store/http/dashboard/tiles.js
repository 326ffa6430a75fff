// The row of figures.

import { bytes, count, odds, percent, span, write } from "./format.js";

const NONE = "–";

/** Shows a pool's statistics. */
export function showTiles(place, stats) {
  const { entries, size, coverage, offers, replacements, stale, ages } = stats;
  const texts = [
    [count(entries), coverage === null ? "size not declared" : `of ${count(size)} images, ${percent(coverage)}`],
    [stats.mean_reward === null ? NONE : stats.mean_reward.toFixed(3),
      stats.mean_log_odds === null ? "no score yet" : `log-odds ${odds(stats.mean_log_odds)}`],
    [offers ? percent(stats.acceptance) : NONE, `${count(replacements)} entered`],
    [count(offers), stale ? `${count(stale)} stale: other scorer` : "none stale"],
    [bytes(stats.blob_bytes), `in ${count(stats.blobs)} images`],
    [ages ? span(ages.median) : NONE, ages ? `median; ${span(ages.newest)} to ${span(ages.oldest)}` : "none yet"],
  ];
  texts.forEach(([value, note], index) => {
    const tile = place.children[index];
    write(tile.querySelector("strong"), value);
    write(tile.querySelector(".note"), note);
  });
  place.children[3].querySelector(".note").classList.toggle("warn", stale > 0);
  const cover = place.querySelector(".cover");
  cover.classList.toggle("unknown", coverage === null);
  cover.setAttribute("aria-valuenow", Math.round(100 * (coverage ?? 0)));
  cover.firstChild.style.setProperty("--share", coverage ?? 0);
}
