// Small line icons, one per state: shape says the same as word and colour.

import { svg } from "./dom.js";

const PATHS = {
  ok: "M5 12.5l4.5 4.5L19 7.5",
  warning: "M12 6v7.5M12 17.5v.01",
  critical: "M7 7l10 10M17 7L7 17",
  checking: "M12 6.5V12l3.5 2.5",
  unknown: "M9 9.2a3 3 0 1 1 4.3 2.7c-.9.5-1.3 1-1.3 2.1M12 17.5v.01",
  chevron: "M9 5.5l6.5 6.5L9 18.5",
};
const OF_STATE = { ready: "ok", down: "critical", checking: "checking" };

/** An icon by its name, or by the state of a backend. */
export function icon(name) {
  const path = svg("path", {
    d: PATHS[name] ?? PATHS[OF_STATE[name]] ?? PATHS.unknown,
    fill: "none",
    stroke: "currentColor",
    "stroke-width": "2.4",
    "stroke-linecap": "round",
    "stroke-linejoin": "round",
  });
  return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, path);
}
