// The page: photographs come in, are sent two at a time, are shown before and after, and are downloaded.

import { NeedsToken, Refused, ask, hasToken, setToken } from "./api.js";
import { Viewer } from "./viewer.js";
import { zip } from "./zip.js";

const AT_ONCE = 2;
const find = (id) => document.getElementById(id);
const viewer = new Viewer(find("stage"));
const photographs = [];
let chosen = null, service = null, sending = 0, asking = null;

const MEGA = 1 << 20;
const bytes = (value) => (value < MEGA ? `${Math.ceil(value / 1024)} kB` : `${+(value / MEGA).toFixed(1)} MB`);
const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const first = (text) => text[0].toUpperCase() + text.slice(1);

// The list

function add(files) {
  const added = [...files].map((file) => {
    const row = find("row").content.firstElementChild.cloneNode(true);
    const photograph = { file, row, name: file.name || "photograph.png", state: "waiting", stop: new AbortController() };
    write(row.querySelector(".called"), photograph.name);
    row.querySelector(".drop").setAttribute("aria-label", `Remove ${photograph.name}`);
    row.querySelector(".pick").addEventListener("click", () => choose(photograph));
    row.querySelector(".drop").addEventListener("click", () => remove(photograph));
    find("list").append(row);
    photographs.push(photograph);
    return photograph;
  });
  if (!added.length) return;
  if (!chosen) choose(added[0]);
  for (const photograph of added) prepare(photograph);
  tell();
  next();
}

function remove(photograph) {
  photograph.stop.abort();
  const at = photographs.indexOf(photograph);
  photographs.splice(at, 1);
  photograph.row.remove();
  for (const url of [photograph.before, photograph.after]) if (url) URL.revokeObjectURL(url);
  if (chosen === photograph) choose(photographs[Math.min(at, photographs.length - 1)] ?? null);
  tell();
  next();
}

/** The URL of a picture that this browser can show: of the file, or of a preview by the service. */
async function shown(blob, photograph) {
  const url = URL.createObjectURL(blob), image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    await connected;
    if (blob.size > service.body) throw new Refused("it is too large");
    const answer = await ask("v1/preview", { body: blob, signal: photograph.stop.signal });
    image.src = URL.createObjectURL(await answer.blob());
    await image.decode();
  }
  thumbnail(image, photograph.row.querySelector("canvas"));
  return image.src;
}

function thumbnail(image, canvas) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const scale = Math.min(width / canvas.width, height / canvas.height);
  const wide = scale * canvas.width, tall = scale * canvas.height;
  canvas.getContext("2d").drawImage(
    image, (width - wide) / 2, (height - tall) / 2, wide, tall, 0, 0, canvas.width, canvas.height);
}

async function prepare(photograph) {
  try {
    photograph.before = await shown(photograph.file, photograph);
  } catch (error) {
    if (error instanceof NeedsToken) return token().then(() => prepare(photograph));
    return; // deraining it says what is wrong
  }
  if (chosen === photograph) view();
}

// Sending

function next() {
  while (service && sending < AT_ONCE && !asking) {
    const photograph = photographs.find(({ state }) => state === "waiting");
    if (!photograph) break;
    sending += 1;
    send(photograph).finally(() => { sending -= 1; tell(); next(); });
  }
}

function becomes(photograph, state, sentence = "") {
  Object.assign(photograph, { state, sentence });
  if (chosen === photograph) view();
  tell();
}

async function send(photograph) {
  const { file, stop } = photograph, began = performance.now();
  becomes(photograph, "sent");
  try {
    await file.slice(0, 1).arrayBuffer().catch(() => { throw new Refused("it cannot be read: add files, not folders"); });
    if (file.size > service.body) {
      throw new Refused(`the file has ${bytes(file.size)}, and the service takes ${bytes(service.body)}: make it smaller`);
    }
    const waits = (seconds, away) => {
      const what = away ? "The service does not answer" : "The service is busy";
      becomes(photograph, "paused", `${what}: again in ${seconds} s`);
    };
    const answer = await ask("v1/derain", { body: file, signal: stop.signal, waits });
    photograph.lacks = answer.headers.get("rgsud-lacks");
    photograph.result = await answer.blob();
    photograph.seconds = (performance.now() - began) / 1000;
    photograph.after = await shown(photograph.result, photograph);
    becomes(photograph, "done");
  } catch (error) {
    if (stop.signal.aborted) return;
    if (error instanceof NeedsToken) {
      becomes(photograph, "waiting");
      await token();
    } else {
      becomes(photograph, "failed", first(error instanceof Refused ? error.message : "this browser cannot show the result: try again"));
    }
  }
}

// What is shown

function choose(photograph) {
  chosen = photograph;
  for (const { row } of photographs) row.querySelector(".pick").setAttribute("aria-pressed", row === photograph?.row);
  photograph?.row.scrollIntoView({ block: "nearest" });
  viewer.at = [0.5, 0.5];
  view();
}

async function view() {
  const photograph = chosen;
  if (!photograph) return;
  const { name, state, before, after } = photograph;
  const done = state === "done";
  write(find("name"), name);
  find("save").disabled = !done;
  find("lacks").hidden = !photograph.lacks;
  if (photograph.lacks) write(find("lacks"), `The result is without what this format cannot hold or nobody derained: ${photograph.lacks}.`);
  const said = find("said");
  said.hidden = done;
  said.classList.toggle("failed", state === "failed");
  write(said.querySelector("b"), { waiting: "Waiting", sent: "Removing the rain", paused: "Waiting", failed: "Not derained" }[state] ?? "");
  write(said.querySelector("p"), photograph.sentence ?? "");
  find("again").hidden = state !== "failed";
  facts();
  const at = photographs.indexOf(photograph);
  document.querySelector('[data-go="-1"]').disabled = at <= 0;
  document.querySelector('[data-go="1"]').disabled = at < 0 || at === photographs.length - 1;
  find("stage").classList.toggle("unseen-photograph", !before);
  if (before) {
    viewer.before.alt = `The rainy photograph ${name}`;
    viewer.after.alt = `${name} without its rain`;
    viewer.taken.setAttribute("aria-label", `What was taken from ${name}: the differences, amplified`);
    const size = await viewer.show(before, done ? after : null).catch(() => null);
    if (!size || chosen !== photograph) return;
    photograph.size = size;
    find("stage").dataset.shown = done ? "both" : "before";
    facts();
  } else {
    find("stage").dataset.shown = "none";
  }
}

function facts() {
  const { file, size, seconds } = chosen;
  const parts = [size && `${size[0]} × ${size[1]}`, bytes(file.size), seconds && `derained in ${seconds.toFixed(1)} s`];
  write(find("facts"), parts.filter(Boolean).join(" · "));
  const taken = viewer.mode === "taken" && chosen.state === "done";
  find("save-taken").hidden = !taken;
  write(find("gain"), taken && viewer.gain ? `${viewer.hardly ? "Hardly any differences" : "Differences"}, ${viewer.gain} times as strong` : "");
}

const HOW = { waiting: "waiting", sent: "removing the rain", paused: "waiting", failed: "", done: "" };

/** How it goes with everything, in the list and at the head of the page. */
function tell() {
  const of = (...states) => photographs.filter(({ state }) => states.includes(state)).length;
  for (const { row, state, sentence, result } of photographs) {
    row.dataset.state = state;
    write(row.querySelector(".how"), sentence || HOW[state] || (result ? bytes(result.size) : ""));
  }
  const any = photographs.length > 0, done = of("done"), failed = of("failed");
  find("start").hidden = any;
  find("work").hidden = !any;
  find("save-all").disabled = done === 0;
  write(find("save-all"), done > 1 ? `Download all ${done}` : "Download all");
  const away = photographs.some(({ state, sentence }) => state === "paused" && sentence.includes("not answer"));
  const busy = of("waiting", "sent", "paused");
  const status = busy ? `${done} of ${photographs.length} derained` : any ? `${done} derained${failed ? `, ${failed} not` : ""}` : "Ready";
  state(away ? "down" : busy ? "busy" : "live", away ? "Not answering, retrying" : status);
}

function state(kind, text) {
  if (!service && kind !== "down") return;
  find("state").className = `state ${kind}`;
  write(find("state").querySelector("span"), text);
}

// Downloads

function named(photograph, taken = new Set()) {
  const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/s.exec(photograph.name.replace(/^.*[\\/]/s, ""));
  const end = photograph.result.type === "image/png" && !/^\.a?png$/i.test(suffix ?? "") ? ".png" : suffix ?? "";
  let name = `${stem}-derained${end}`;
  for (let number = 2; taken.has(name); number += 1) name = `${stem}-derained (${number})${end}`;
  taken.add(name);
  return name;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function downloadAll() {
  const done = photographs.filter(({ state }) => state === "done"), taken = new Set();
  if (done.length === 1) return download(done[0].result, named(done[0]));
  const entries = done.map((photograph) => [named(photograph, taken), photograph.result, Date.now()]);
  find("save-all").disabled = true;
  try {
    download(await zip(entries), "derained.zip");
  } catch (error) {
    state("down", first(error.message));
    return;
  }
  tell();
}

// The token

/** Asks for a token; one question for all who need it. */
function token() {
  asking ??= new Promise((resolve) => {
    const dialog = find("token"), form = dialog.querySelector("form");
    if (hasToken()) write(find("token-why"), "That token was refused. Enter another one.");
    dialog.oncancel = (event) => event.preventDefault();
    form.onsubmit = () => {
      setToken(form.elements.token.value.trim());
      form.reset();
    };
    dialog.onclose = () => resolve();
    if (!dialog.open) dialog.showModal();
  }).then(() => { asking = null; });
  return asking;
}

async function connect() {
  for (;;) {
    try {
      const answer = await ask("v1/service", { waits: () => state("down", "Not answering, retrying") });
      service = await answer.json();
      break;
    } catch (error) {
      if (!(error instanceof NeedsToken)) throw error;
      await token();
    }
  }
  write(find("about"), `${service.model} on ${service.device}`);
  write(find("limits"), `JPEG, PNG, TIFF, WebP, AVIF and others, up to ${service.pixels / 1e6} megapixels and ${bytes(service.body)}. `
    + `They go to ${location.host} only, and are kept nowhere.`);
  tell();
  next();
}

// What people do

for (const button of document.querySelectorAll("[data-choose]")) button.addEventListener("click", () => find("choose").click());
for (const button of document.querySelectorAll("[data-go]")) {
  button.addEventListener("click", () => choose(photographs[photographs.indexOf(chosen) + Number(button.dataset.go)] ?? chosen));
}
find("choose").addEventListener("change", ({ target }) => { add(target.files); target.value = ""; });
find("again").addEventListener("click", () => { becomes(chosen, "waiting"); next(); });
find("save").addEventListener("click", () => download(chosen.result, named(chosen)));
find("save-all").addEventListener("click", downloadAll);
find("clear").addEventListener("click", () => { for (const photograph of [...photographs]) remove(photograph); });
find("save-taken").addEventListener("click", () => {
  const name = `${named(chosen).replace(/-derained(\.[^.]*)?$/, "")}-rain.png`;
  viewer.taken.toBlob((blob) => download(blob, name));
});
find("mode").addEventListener("change", ({ target }) => { viewer.mode = target.value; facts(); });

let within = 0;
const carries = (event) => event.dataTransfer?.types.includes("Files");
const dropping = (by) => {
  within = by ? Math.max(0, within + by) : 0;
  document.body.classList.toggle("drops", within > 0);
};
addEventListener("dragenter", (event) => carries(event) && dropping(1));
addEventListener("dragleave", (event) => carries(event) && dropping(-1));
addEventListener("dragover", (event) => carries(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  dropping(0);
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => event.clipboardData?.files.length && add(event.clipboardData.files));

const connected = connect();
