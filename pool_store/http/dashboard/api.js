// Talks to the service this page comes from: the token, errors, and images as object URLs.

const KEY = "rgsud-pool-token";
const PATIENCE = 10_000;
const KEPT_URLS = 400;
const AT_ONCE = 6;

/** The service answered that it wants a token, or another one (403: one that may read). */
export class NeedsToken extends Error {}
/** No answer, or one that says that something failed. */
export class Failed extends Error {}

export const setToken = (token) => sessionStorage.setItem(KEY, token);
export const hasToken = () => sessionStorage.getItem(KEY) !== null;

async function request(path) {
  const token = sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, {
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      signal: AbortSignal.timeout(PATIENCE),
    });
  } catch {
    throw new Failed("no answer");
  }
  if (response.status === 401 || response.status === 403) throw new NeedsToken(response.status);
  if (response.status !== 404 && !response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Failed(problem.detail ?? `status ${response.status}`);
  }
  return response;
}

/** The JSON at a path, null where there is none. */
export async function json(path) {
  const response = await request(path);
  if (response.status === 404) return null;
  return response.json().catch(() => { throw new Failed("no JSON"); });
}

/** An id as a part of a path: its slashes stay. */
export const part = (id) => id.split("/").map(encodeURIComponent).join("/");

const urls = new Map();
const waiting = [];
let running = 0;

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift()().finally(() => { running -= 1; next(); });
  }
}

/**
 * The object URL of the image at a path, null where there is none. Fetched, and not named in `src`, since only
 * so the token goes along. The oldest are let go: what shows them has decoded them by then.
 */
export function picture(path) {
  const known = urls.get(path);
  if (known) {
    urls.delete(path);
    urls.set(path, known);
    return known;
  }
  const promise = new Promise((resolve, reject) => {
    waiting.push(async () => {
      try {
        const response = await request(path);
        // What is missing may come: it is asked for anew when it is needed again.
        if (response.status === 404) urls.delete(path);
        resolve(response.status === 404 ? null : URL.createObjectURL(await response.blob()));
      } catch (error) {
        urls.delete(path);
        reject(error);
      }
    });
  });
  urls.set(path, promise);
  if (urls.size > KEPT_URLS) {
    const [oldest, old] = urls.entries().next().value;
    urls.delete(oldest);
    old.then((url) => url && URL.revokeObjectURL(url), () => {});
  }
  next();
  return promise;
}

/** Shows the image at a path once it is decoded; until then what was there stays. Whether there is one. */
export async function show(image, path) {
  if (image.dataset.path === path) return image.dataset.state === "shown";
  image.dataset.path = path;
  image.dataset.state = "loading";
  const url = await picture(path).catch(() => undefined);
  if (image.dataset.path !== path) return false;
  if (!url) {
    image.removeAttribute("src");
    image.dataset.state = "none";
    // Undefined is a failure: another try may bring it.
    if (url === undefined) delete image.dataset.path;
    return false;
  }
  const loaded = new Image();
  loaded.src = url;
  await loaded.decode().catch(() => {});
  if (image.dataset.path !== path) return false;
  image.src = url;
  image.dataset.state = "shown";
  return true;
}
