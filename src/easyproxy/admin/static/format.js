// Numbers, sizes and times in words. Pure.

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 12,345 */
export const count = (value) => grouped.format(value);

/** [number, unit] of a size in bytes: ["1.4", "MiB"]. Three digits at most, so that columns stay narrow. */
export function sizeParts(bytes) {
  let value = Math.max(0, bytes);
  let step = 0;
  while (value >= 999.5 && step < SIZES.length - 1) {
    value /= 1024;
    step += 1;
  }
  const digits = step === 0 || value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
  return [value.toFixed(digits), SIZES[step]];
}

export const size = (bytes) => sizeParts(bytes).join(" ");
export const rate = (bytesPerSecond) => `${size(bytesPerSecond)}/s`;

/** 0.4 ms, 12 ms, 1.2 s */
export function latency(seconds) {
  const ms = seconds * 1000;
  if (ms < 0.95) return `${ms.toFixed(2)} ms`;
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  return ms < 999.5 ? `${ms.toFixed(0)} ms` : `${seconds.toFixed(1)} s`;
}

/** A length of time: 5 s, 3 min, 2 h 05 min, 4 d 3 h. */
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

/** The time that is left, to the nearest second or minute: of 30 minutes that have just begun, 30 min and not 29. */
export const remaining = (seconds) => span(seconds < 59.5 ? seconds + 0.5 : seconds + 30);

/** Date and time of day, in the reader's zone. */
export const moment = (epoch) =>
  new Date(epoch * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/** Time of day; with the date when it is not today. */
export function clock(epoch) {
  const at = new Date(epoch * 1000);
  const time = at.toLocaleTimeString(undefined, { timeStyle: "medium", hourCycle: "h23" });
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString(undefined, { dateStyle: "medium" })}, ${time}`;
}

/** 1 session, 1,200 sessions */
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** by anna: kernel update */
export const authored = (author) => (author?.who ? `by ${author.who}${author.why ? `: ${author.why}` : ""}` : author?.why || "");

/** round_robin -> round robin */
export const words = (name) => name.replaceAll("_", " ");
