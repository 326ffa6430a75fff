// Two pictures in one place: a seam between them, a lens, and what one has that the other has not.

const LARGER = 3;
const LONGEST = 1600;
const STRONGEST = 24;
/** Share of all values that the amplified difference may cut off. */
const CUT = 0.003;

const clamp = (value, low = 0, high = 1) => Math.min(high, Math.max(low, value));

function loaded(image, url) {
  if (image.src !== url) image.src = url;
  return image.decode();
}

export class Viewer {
  constructor(stage) {
    this.stage = stage;
    this.range = stage.querySelector("input");
    this.lens = stage.querySelector(".lens");
    this.before = stage.querySelector(".before");
    this.after = stage.querySelector(".after");
    this.taken = stage.querySelector(".taken");
    this.at = [0.5, 0.5];
    stage.addEventListener("pointerdown", (event) => {
      if (event.button || event.target.closest("button") || this.mode === "taken" || !this.whole) return;
      event.preventDefault();
      stage.setPointerCapture(event.pointerId);
      (this.mode === "lens" ? this.lens : this.range).focus({ focusVisible: false, preventScroll: true });
      this.point(event);
    });
    stage.addEventListener("pointermove", (event) => {
      const follows = this.mode === "lens" && event.pointerType === "mouse";
      if (follows || stage.hasPointerCapture(event.pointerId)) this.point(event);
    });
    this.range.addEventListener("input", () => this.follow());
    this.lens.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      this.look(this.at[0] + way[0] / 40, this.at[1] + way[1] / 40);
    });
    new ResizeObserver(() => this.draw()).observe(stage);
    this.follow();
  }

  get mode() { return this.stage.dataset.mode; }

  set mode(mode) {
    this.stage.dataset.mode = mode;
    this.draw();
  }

  point(event) {
    const box = this.stage.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    if (this.mode === "lens") {
      // A finger hides what is below it.
      this.look(x, y, event.pointerType === "mouse" ? 0 : 84);
    } else {
      this.range.value = 100 * clamp(x);
      this.follow();
    }
  }

  follow() {
    this.stage.style.setProperty("--split", `${this.range.value}%`);
    this.range.setAttribute("aria-valuetext", `${Math.round(this.range.value)} % rainy`);
  }

  look(x, y, above = 0) {
    this.at = [clamp(x), clamp(y)];
    this.above = above;
    this.draw();
  }

  /**
   * Shows pictures by their URLs, `after` null while there is none; resolves once they are seen, with the
   * size of the photograph, or null if another one was asked for meanwhile.
   */
  async show(before, after) {
    const token = this.showing = Symbol("shown");
    this.whole = false;
    this.stage.classList.toggle("alone", !after);
    if (!after) this.after.removeAttribute("src");
    await Promise.all([loaded(this.before, before), after && loaded(this.after, after)]);
    if (token !== this.showing) return null;
    const { naturalWidth: width, naturalHeight: height } = this.before;
    this.stage.style.setProperty("--ratio", width / height);
    this.whole = Boolean(after);
    this.gain = this.whole ? this.subtract() : 0;
    this.draw();
    return [width, height];
  }

  draw() {
    if (this.mode !== "lens" || !this.whole) return;
    const { width, height } = this.stage.getBoundingClientRect();
    const [x, y] = this.at, canvas = this.lens.firstChild, side = this.lens.offsetWidth;
    this.lens.style.left = `${x * width}px`;
    this.lens.style.top = `${y * height - (this.above ?? 0)}px`;
    const dots = Math.round(side * devicePixelRatio);
    if (canvas.width !== dots) canvas.width = canvas.height = dots;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, dots, dots);
    for (const [image, left] of [[this.before, 0], [this.after, 0.5]]) {
      const scale = image.naturalWidth / width / LARGER;
      context.drawImage(image, x * image.naturalWidth + (left - 0.5) * side * scale,
        y * image.naturalHeight - side * scale / 2, side * scale / 2, side * scale,
        left * dots, 0, dots / 2, dots);
    }
  }

  /** Draws the differences, as strong as they bear; how many times that is. */
  subtract() {
    const { naturalWidth, naturalHeight } = this.before;
    const scale = Math.min(1, LONGEST / Math.max(naturalWidth, naturalHeight));
    const width = Math.max(1, Math.round(scale * naturalWidth));
    const height = Math.max(1, Math.round(scale * naturalHeight));
    this.taken.width = width;
    this.taken.height = height;
    const context = this.taken.getContext("2d", { willReadFrequently: true });
    const [before, after] = [this.before, this.after].map((image) => {
      context.clearRect(0, 0, width, height);
      context.drawImage(image, 0, 0, width, height);
      return context.getImageData(0, 0, width, height);
    });
    const counts = new Uint32Array(256);
    for (let at = 0; at < before.data.length; at += 1) {
      if (at % 4 === 3) after.data[at] = 255;
      else counts[after.data[at] = Math.abs(before.data[at] - after.data[at])] += 1;
    }
    let strong = 255;
    for (let beyond = counts[255]; strong > 1 && beyond < CUT * 3 * width * height; beyond += counts[strong]) strong -= 1;
    this.hardly = strong < 3;
    const gain = clamp(Math.round(255 / strong), 1, STRONGEST);
    for (let at = 0; at < after.data.length; at += 1) if (at % 4 !== 3) after.data[at] *= gain;
    context.putImageData(after, 0, 0);
    return gain;
  }
}
