// The page: what is shown, asked of the service every few seconds.

import { Failed, NeedsToken, hasToken, json, setToken } from "./api.js";
import { Detail } from "./detail.js";
import { clock, count, element, write } from "./format.js";
import { Gallery, note } from "./gallery.js";
import { Histogram, Timeline, showStages } from "./plots.js";
import { showTiles } from "./tiles.js";

const EVERY = 2500;
const HIDDEN = 30_000;
const RETRY = [1000, 2000, 4000, 8000, 10_000];
const PAGE = 24;

const $ = (id) => document.getElementById(id);
const tools = $("tools");
// The address keeps what is shown, so that a reload, or a colleague, sees the same.
const wanted = new URLSearchParams(location.hash.slice(1));
let pool = wanted.get("pool");
let openAtStart = wanted.get("image");
let offset = 0;
let downSince = null;
let failures = 0;
let timer = null;
let turn = 0;
let firstPage = true;

const histogram = new Histogram($("scores"), (low, high) => {
  [tools.minimum.value, tools.maximum.value] = [low, high];
  changed();
});
const timeline = new Timeline($("timeline"));
const gallery = new Gallery($("grid"), (id) => detail.open(pool, id).catch(failed));
const detail = new Detail($("detail"), (id, by) => gallery.neighbour(id, by), remember);

// By their names in the API. No field may be called "contains": the form would lose its method of that name.
const FILTERS = { contains: tools.part, minimum: tools.minimum, maximum: tools.maximum };
for (const [name, field] of Object.entries({ sort: tools.sort, ...FILTERS })) {
  if (wanted.has(name)) field.value = wanted.get(name);
}

function filtered() {
  return Object.values(FILTERS).some((field) => field.value !== "");
}

function query() {
  const made = new URLSearchParams({ sort: tools.sort.value, offset, limit: PAGE });
  for (const [name, field] of Object.entries(FILTERS)) if (field.value !== "") made.set(name, field.value);
  return made;
}

function remember(image = detail.id) {
  const made = query();
  for (const name of ["offset", "limit"]) made.delete(name);
  if (made.get("sort") === "worst") made.delete("sort");
  if (pool) made.set("pool", pool);
  if (image) made.set("image", image);
  history.replaceState(null, "", `#${made}`);
}

/** Another sort, filter or page was chosen: shown as soon as it is there, from the first card on. */
function changed(page = 0) {
  offset = page;
  $("clear").disabled = !filtered();
  firstPage = true;
  remember();
  poll();
}

/** The clock is apart, so that it is not read out every time. */
function state(kind, text, now = "") {
  const [, said, time] = $("state").children;
  $("state").className = `state ${kind}`;
  write(said, text);
  write(time, now);
}

function failed(error) {
  if (error instanceof NeedsToken) {
    askForToken(error);
    return;
  }
  if (!(error instanceof Failed)) {
    reportError(error);
    state("down", `This page has an error: ${error.message}`);
    return;
  }
  downSince ??= Date.now() / 1000;
  const reason = error.message === "no answer" ? "" : `: ${error.message}`;
  state("down", `Not answering since ${clock(downSince)}, retrying${reason}`);
}

function askForToken(error) {
  if ($("token").open) return;
  state("down", "Waiting for a token");
  if (hasToken()) {
    write($("token-why"), error.message === "403" ? "That token may not read. Enter another one."
      : "That token was refused. Enter another one.");
  }
  $("token").showModal();
}

$("token").addEventListener("cancel", (event) => event.preventDefault());
$("token").firstElementChild.addEventListener("submit", (event) => {
  const { token } = event.target;
  setToken(token.value.trim());
  token.value = "";
  setTimeout(poll);
});

/** Reads everything once and plans the next time; a newer call makes an older one's answers void. */
async function poll() {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  let wait = EVERY;
  const began = performance.now();
  try {
    await refresh(() => mine === turn);
    if (mine !== turn) return;
    // A service that takes long, over a filter of a million ids for example, is asked less often.
    wait = Math.max(EVERY, 4 * (performance.now() - began));
    failures = 0;
    downSince = null;
    state("live", "Live", clock(Date.now() / 1000));
  } catch (error) {
    if (mine !== turn) return;
    wait = RETRY[Math.min(failures, RETRY.length - 1)];
    failures += 1;
    failed(error);
    if (error instanceof NeedsToken) return;
  }
  timer = setTimeout(poll, document.hidden ? HIDDEN : wait);
}

document.addEventListener("visibilitychange", () => document.hidden || poll());

async function refresh(current) {
  const { pools } = (await json("v1/pools")) ?? { pools: [] };
  if (!current()) return;
  choosePool(pools);
  if (!pool) {
    empty("No pool yet", "A pool is created by the first run that uses it. Give this service’s address in the run’s settings:",
      `pool: ${location.origin}/my-pool`);
    return;
  }
  const base = `v1/pools/${pool}`;
  const [stats, page] = await Promise.all([json(`${base}/stats`), json(`${base}/entries?${query()}`), detail.refresh()]);
  if (!current() || !stats || !page) return;
  if (!stats.entries && !stats.offers) {
    empty("No reward yet", `The pool “${pool}” is ready. Rewards appear here as soon as a run offers its first derained images; `
      + "a run does so that has in its configuration:", `pool: ${location.origin}/${pool}`);
    return;
  }
  $("empty").hidden = true;
  $("main").hidden = false;
  showTiles($("tiles"), stats);
  histogram.update({ histogram: stats.histogram, quantiles: stats.quantiles });
  timeline.update(stats.timeline);
  showStages($("stages").lastElementChild, stats.per_stage);
  cards(page);
}

function choosePool(pools) {
  const names = pools.map(({ name }) => name);
  if (!names.includes(pool)) pool = names[0] ?? null;
  const select = $("pool");
  $("pools").hidden = names.length < 2;
  if (select.dataset.names !== names.join()) {
    select.dataset.names = names.join();
    select.replaceChildren(...names.map((name) => element("option", {}, name)));
  }
  select.value = pool ?? "";
  const shown = pools.find(({ name }) => name === pool);
  const about = shown && `${names.length < 2 ? `${pool}, ` : ""}scored by ${shown.fingerprint}${shown.keep > 1 ? `, ${shown.keep} kept an image` : ""}`;
  write($("about"), about ?? "");
  $("about").title = about ?? "";
  const title = pool ? `${pool} · Reward pool` : "Reward pool";
  if (document.title !== title) document.title = title;
}

function cards({ entries, total }) {
  if (!entries.length && total && offset) {
    changed(Math.floor((total - 1) / PAGE) * PAGE);
    return;
  }
  // Whoever is at a card keeps it: other cards come, or change places, once the pointer and the focus are elsewhere.
  const held = !firstPage && gallery.inUse() && !gallery.sameOrder(entries);
  if (held) {
    const known = new Map(entries.map((entry) => [entry.id, entry]));
    gallery.update(pool, gallery.entries.map((entry) => known.get(entry.id) ?? entry), true);
  } else gallery.update(pool, entries, !firstPage);
  firstPage = false;
  const last = offset + entries.length;
  write($("shown"), total ? `${count(offset + 1)} to ${count(last)} of ${count(total)}${held ? "; order waits while you look" : ""}` : "");
  $("earlier").disabled = !offset;
  $("later").disabled = last >= total;
  $("pager").hidden = !total;
  $("note").hidden = total > 0;
  if (!total) {
    if (filtered()) note($("note"), "No reward matches", element("p", {}, "Clear the filter, or widen the score range."));
    else note($("note"), "No reward yet", element("p", {}, "There were offers, but none has entered the pool."));
  }
  if (openAtStart) {
    const id = openAtStart;
    openAtStart = null;
    detail.open(pool, id).catch(failed);
  }
}

function empty(title, text, setting) {
  $("main").hidden = true;
  $("empty").hidden = false;
  note($("empty"), title, element("p", {}, text), element("pre", {}, setting));
}

let typing = null;
tools.addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(changed, event.target.type === "radio" ? 0 : 250);
});
tools.addEventListener("submit", (event) => event.preventDefault());
$("clear").addEventListener("click", () => {
  for (const field of Object.values(FILTERS)) field.value = "";
  changed();
});
const turnPage = (by) => {
  changed(Math.max(0, offset + by * PAGE));
  $("tools").scrollIntoView({ block: "start" });
};
$("earlier").addEventListener("click", () => turnPage(-1));
$("later").addEventListener("click", () => turnPage(1));
$("pool").addEventListener("change", (event) => {
  pool = event.target.value;
  changed();
});

$("clear").disabled = !filtered();
poll();
