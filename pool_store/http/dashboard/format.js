// Figures and times as this page writes them.

const whole = new Intl.NumberFormat("en");
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const count = (value) => whole.format(value);
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u00a0%`;
export const reward = (logOdds) => (1 / (1 + Math.exp(-logOdds))).toFixed(3);
/** Log-odds with their sign, a true minus among them. */
export const odds = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
/** What a label needs no more exact. */
export const plain = (value) => String(+value.toFixed(2)).replace("-", "−");
export const clock = (seconds) => time.format(seconds * 1000);
export const clockMinute = (seconds) => minute.format(seconds * 1000);

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit && value < 99.5 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`;
}

/** A length of time, to one unit: "8 s", "12 min", "3 h", "2 d". */
export function span(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** An element with text and attributes, children last. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Changes a text only where it differs, so that nothing is drawn, or read out, without need. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
