// Talks to the service this page comes from: the token, refusals, and how long to wait.

const KEY = "rgsud-derain-token";
const AWAY_SECONDS = 3;

/** The service wants a token, or another one. */
export class NeedsToken extends Error {}
/** The service does not take this; the message says why, and what to do. */
export class Refused extends Error {}

export const setToken = (token) => sessionStorage.setItem(KEY, token);
export const hasToken = () => sessionStorage.getItem(KEY) !== null;

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

/**
 * The answer of a path. Where the service is busy or away it is asked again, when it said or a little later;
 * `waits(seconds, away)` is called before.
 */
export async function ask(path, { body, signal, waits = () => {} } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body) headers["Content-Type"] = "application/octet-stream";
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", body, headers, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      waits(AWAY_SECONDS, true);
      await pause(AWAY_SECONDS, signal);
      continue;
    }
    if (response.ok) return response;
    if (response.status === 401 || response.status === 403) throw new NeedsToken(response.status);
    if (response.status === 503 || response.status === 429) {
      const seconds = Number(response.headers.get("Retry-After")) || AWAY_SECONDS;
      waits(seconds, false);
      await pause(seconds, signal);
      continue;
    }
    const problem = await response.json().catch(() => ({}));
    throw new Refused(problem.detail ?? `the service answered with status ${response.status}`);
  }
}
