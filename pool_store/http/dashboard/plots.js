// Small plots in SVG: axes, units, and the value under the pointer, or under the arrow keys, in the caption.

import { clockMinute, count, element, odds, percent, plain, reward, write } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 44, right: 12, top: 14, bottom: 34 };

function draw(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/** Round numbers, at most about `most`, that divide a range. */
export function ticks(low, high, most) {
  const raw = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.999);
  const made = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) made.push(value || 0);
  return made;
}

const SPANS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600];

function clockTicks(low, high, most) {
  const step = SPANS.find((candidate) => (high - low) / candidate <= most) ?? 43200;
  const zone = new Date(low * 1000).getTimezoneOffset() * 60;
  const made = [];
  for (let value = Math.ceil((low - zone) / step) * step + zone; value <= high; value += step) made.push(value);
  return made;
}

/** What every plot shares: it fits its place, draws when data or width change, and tells values. */
class Plot {
  constructor(figure) {
    this.place = figure.querySelector(".plot");
    this.output = figure.querySelector("output");
    this.svg = draw("svg", { tabindex: 0, role: "img" });
    this.place.append(this.svg);
    this.data = null;
    this.at = null;
    this.svg.addEventListener("pointermove", (event) => this.point(this.nearest(event.offsetX)));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !this.marks?.length) return;
      event.preventDefault();
      const from = this.at ?? (step > 0 ? -1 : this.marks.length);
      this.point(Math.min(this.marks.length - 1, Math.max(0, from + step)));
    });
    new ResizeObserver(() => this.render()).observe(this.place);
  }

  update(data) {
    const signature = JSON.stringify(data);
    if (signature === this.signature) return;
    this.signature = signature;
    this.data = data;
    this.render();
  }

  render() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (!width || !this.data) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren();
    this.box = { left: EDGE.left, right: width - EDGE.right, top: EDGE.top, bottom: height - EDGE.bottom };
    this.marks = [];
    this.paint(this.box);
    this.cursor = this.add("line", { class: "cursor", y1: this.box.top, y2: this.box.bottom, visibility: "hidden" });
    this.point(this.at !== null && this.at < this.marks.length ? this.at : null);
  }

  add(tag, attributes, text) {
    const made = draw(tag, attributes, text);
    this.svg.append(made);
    return made;
  }

  axes(x, y, { xTicks, yTicks, xName, xText, yText, right = this.box.right }) {
    for (const value of yTicks) {
      this.add("line", { class: "grid", x1: this.box.left, x2: right, y1: y(value), y2: y(value) });
      this.add("text", { class: "label end", x: this.box.left - 7, y: y(value) + 4 }, yText(value));
    }
    for (const value of xTicks) {
      this.add("text", { class: "label middle", x: x(value), y: this.box.bottom + 16 }, xText(value));
    }
    this.add("text", { class: "label middle name", x: (this.box.left + right) / 2, y: this.box.bottom + 31 }, xName);
  }

  nearest(x) {
    if (!this.marks?.length || x < this.box.left - 8) return null;
    let best = 0;
    this.marks.forEach((mark, index) => {
      if (Math.abs(mark.x - x) < Math.abs(this.marks[best].x - x)) best = index;
    });
    return best;
  }

  point(index) {
    this.at = index;
    const mark = index === null ? null : this.marks[index];
    this.cursor?.setAttribute("visibility", mark ? "visible" : "hidden");
    if (mark) for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, mark.x);
    write(this.output, mark ? mark.text : this.rest ?? "");
  }
}

const linear = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);

/** How the scores spread, with the quantiles; choosing a bar calls `choose(low, high)`. */
export class Histogram extends Plot {
  constructor(figure, choose) {
    super(figure);
    const pick = () => this.at !== null && choose(...this.marks[this.at].range);
    this.svg.addEventListener("click", pick);
    this.svg.addEventListener("keydown", (event) => event.key === "Enter" && pick());
  }

  paint(box) {
    const { edges, counts } = this.data.histogram;
    const filled = counts.flatMap((value, index) => (value ? [index] : []));
    if (!filled.length) {
      this.rest = "";
      this.svg.setAttribute("aria-label", "No score yet");
      return;
    }
    const first = Math.max(0, filled[0] - 1);
    const last = Math.min(counts.length - 1, filled[filled.length - 1] + 1);
    const most = Math.max(...counts);
    const x = linear(edges[first], edges[last + 1], box.left, box.right);
    const y = linear(0, most * 1.12, box.bottom, box.top + 6);
    this.axes(x, y, {
      xTicks: ticks(edges[first], edges[last + 1], Math.max(4, (box.right - box.left) / 70)),
      yTicks: ticks(0, most * 1.1, 4).filter(Number.isInteger),
      xName: "score, log-odds of “not degraded”", xText: plain, yText: count,
    });
    for (let index = first; index <= last; index += 1) {
      const [left, right] = [x(edges[index]), x(edges[index + 1])];
      const top = counts[index] ? Math.min(y(counts[index]), box.bottom - 2) : box.bottom;
      this.add("rect", { class: "column", x: left + 0.75, width: Math.max(1, right - left - 1.5), y: top,
        height: box.bottom - top, rx: 1.5 });
      this.marks.push({
        // What lies beyond the edges counts in the outermost columns.
        x: (left + right) / 2, range: [index ? edges[index] : "", index < counts.length - 1 ? edges[index + 1] : ""],
        text: `${count(counts[index])} at ${plain(edges[index])} to ${plain(edges[index + 1])}`,
      });
    }
    this.add("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
    const { quantiles } = this.data;
    const taken = [];
    // The median is named first, then whatever has room beside the names already there.
    for (const name of quantiles ? ["p50", "p05", "p95", "p25", "p75"] : []) {
      const at = Math.min(box.right, Math.max(box.left, x(quantiles[name])));
      const half = name === "p50" ? 24 : 13;
      this.add("line", { class: `quantile ${name}`, x1: at, x2: at, y1: box.top + 2, y2: box.bottom });
      if (taken.some(([other, room]) => Math.abs(at - other) < half + room)) continue;
      taken.push([at, half]);
      this.add("text", { class: "label middle mark", x: at, y: box.top - 3 }, name === "p50" ? "median" : name);
    }
    this.rest = quantiles ? `median ${odds(quantiles.p50)}, reward ${reward(quantiles.p50)}` : "";
    this.svg.setAttribute("aria-label", quantiles
      ? `Histogram of scores: median ${odds(quantiles.p50)}, nine in ten between ${odds(quantiles.p05)} and ${odds(quantiles.p95)} log-odds`
      : "Histogram of scores");
  }
}

/** Minutes joined until there is room for each: {time, length, offers, replacements}. */
function join(timeline, room) {
  const first = timeline[0].time;
  const minutes = (timeline[timeline.length - 1].time - first) / 60 + 1;
  const length = 60 * Math.max(1, Math.ceil(minutes / room));
  const made = [];
  for (const { time, offers, replacements } of timeline) {
    const start = first + Math.floor((time - first) / length) * length;
    const last = made[made.length - 1];
    if (last?.time === start) [last.offers, last.replacements] = [last.offers + offers, last.replacements + replacements];
    else made.push({ time: start, length, offers, replacements });
  }
  return made;
}

/** Acceptance as a line, and under it how many offers there were and how many of them entered. */
export class Timeline extends Plot {
  paint(box) {
    if (!this.data.length) {
      this.rest = "";
      this.svg.setAttribute("aria-label", "No offer yet");
      return;
    }
    const buckets = join(this.data, (box.right - box.left) / 7);
    const { length } = buckets[0];
    const end = buckets[buckets.length - 1].time + length;
    const start = Math.min(buckets[0].time, end - 10 * length);
    const share = (bucket) => bucket.replacements / bucket.offers;
    const ceiling = Math.min(1, Math.max(0.1, ...buckets.map(share)) * 1.05);
    const floor = box.bottom - 44;
    const x = linear(start, end, box.left, box.right);
    const y = linear(0, ceiling, floor, box.top);
    const most = Math.max(...buckets.map((bucket) => bucket.offers));
    const y2 = linear(0, most, box.bottom, floor + 12);
    this.axes(x, y, {
      xTicks: clockTicks(start, end, Math.max(2, (box.right - box.left) / 80)),
      yTicks: ticks(0, ceiling, 4), xName: "local time", xText: clockMinute, yText: (value) => percent(value, 0),
    });
    this.add("text", { class: "label end", x: box.left - 7, y: y2(most) + 8 }, count(most));
    const runs = [];
    buckets.forEach((bucket, index) => {
      const [left, right] = [x(bucket.time) + 0.5, x(bucket.time + length) - 0.5];
      const width = Math.max(1, right - left);
      this.add("rect", { class: "column faint", x: left, width, y: y2(bucket.offers), height: box.bottom - y2(bucket.offers) });
      this.add("rect", { class: "column", x: left, width, y: y2(bucket.replacements), height: box.bottom - y2(bucket.replacements) });
      const middle = (left + right) / 2;
      if (bucket.offers) {
        const after = index && bucket.time - buckets[index - 1].time <= 2 * length;
        if (!after || !runs.length) runs.push([]);
        runs[runs.length - 1].push([middle, y(share(bucket))]);
      }
      this.marks.push({ x: middle,
        text: `${clockMinute(bucket.time)}: ${bucket.offers ? percent(share(bucket)) : "no"} of ${count(bucket.offers)} offers` });
    });
    for (const run of runs) {
      const line = run.map((point) => point.map((value) => value.toFixed(1)).join()).join(" ");
      if (run.length > 1) {
        this.add("path", { class: "area", d: `M${run[0][0]},${floor} L${line} L${run[run.length - 1][0]},${floor}Z` });
        this.add("polyline", { class: "curve", points: line });
      } else this.add("circle", { class: "dot", cx: run[0][0], cy: run[0][1], r: 2.5 });
    }
    this.add("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
    this.rest = `line: share accepted; bars: offers ${length === 60 ? "a minute" : `in ${length / 60} min`}`;
    const recent = buckets[buckets.length - 1];
    this.svg.setAttribute("aria-label", `Acceptance over time, ${clockMinute(start)} to ${clockMinute(end)}: `
      + `last ${recent.offers ? percent(share(recent)) : "none"}`);
  }
}

/** How one entry's score rose: [{time, step, stage, log_odds}], oldest first. */
export class Rise extends Plot {
  paint(box) {
    if (!this.data.length) return;
    const scores = this.data.map((item) => item.log_odds);
    const steps = this.data.map((item) => item.step);
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    const room = (high - low || 1) * 0.12;
    const [from, to] = [Math.min(...steps), Math.max(...steps)];
    const x = linear(from, to === from ? from + 1 : to, box.left + 8, box.right - 8);
    const y = linear(low - room, high + room, box.bottom, box.top);
    this.axes(x, y, { xTicks: ticks(from, to, Math.max(3, (box.right - box.left) / 70)),
      yTicks: ticks(low - room, high + room, 4), xName: "step", xText: count, yText: plain });
    this.add("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
    this.data.forEach((item, index) => {
      const before = this.data[index - 1];
      if (before) {
        this.add("path", { class: `curve stage-${shade(item.stage)}`,
          d: `M${x(before.step)},${y(before.log_odds)}H${x(item.step)}V${y(item.log_odds)}` });
      }
    });
    for (const item of this.data) {
      this.add("circle", { class: `dot stage-${shade(item.stage)}`, cx: x(item.step), cy: y(item.log_odds), r: 4 });
      this.marks.push({ x: x(item.step), text: `step ${count(item.step)}, stage ${item.stage}: ${odds(item.log_odds)}` });
    }
    this.rest = scores.length > 1 ? `${odds(scores[0])} to ${odds(scores[scores.length - 1])}` : "the first so far";
    this.svg.setAttribute("aria-label", `Score by step, log-odds: ${this.rest}`);
  }
}

/** Which of the four stage colours a stage has. */
export const shade = (stage) => ((stage - 1) % 4) + 1;

/** Offers and acceptance of each stage as bars. */
export function showStages(place, stages) {
  const names = Object.keys(stages).sort((a, b) => a - b).filter((name) => stages[name].offers);
  while (place.children.length > names.length) place.lastChild.remove();
  names.forEach((name, index) => {
    const { offers, replacements } = stages[name];
    if (!place.children[index]) {
      place.append(element("div", { class: "stage" }, element("h3"), element("b"), element("div", { class: "share" }, element("i")), element("p")));
    }
    const [title, value, bar, note] = place.children[index].children;
    place.children[index].className = `stage stage-${shade(name)}`;
    write(title, `Stage ${name}`);
    write(value, percent(replacements / offers));
    bar.firstChild.style.setProperty("--share", replacements / offers);
    write(note, `${count(replacements)} of ${count(offers)} offers accepted`);
  });
}
