// Small line icons, one per state: shape says the same as word and colour.

import { svg } from "./dom.js";

const PATHS = {
  ok: "M5 12.5l4.5 4.5L19 7.5",
  warning: "M12 6v7.5M12 17.5v.01",
  critical: "M7 7l10 10M17 7L7 17",
  checking: "M12 6.5V12l3.5 2.5",
  draining: "M12 5v10M7.5 11.5L12 16l4.5-4.5M6 20h12",
  maintenance: "M9 6.5v11M15 6.5v11",
  info: "M12 11.5v6M12 6.5v.01",
  unknown: "M9 9.2a3 3 0 1 1 4.3 2.7c-.9.5-1.3 1-1.3 2.1M12 17.5v.01",
  chevron: "M9 5.5l6.5 6.5L9 18.5",
  dots: "M5 12v.01M12 12v.01M19 12v.01",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  plus: "M12 5.5v13M5.5 12h13",
  reload: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4.5h-4.5",
};
const OF_STATE = { ready: "ok", down: "critical", held: "maintenance", error: "critical" };

/** An icon by its name, or by the state of a backend. */
export function icon(name) {
  const path = svg("path", {
    d: PATHS[name] ?? PATHS[OF_STATE[name]] ?? PATHS.unknown,
    fill: "none",
    stroke: "currentColor",
    "stroke-width": name === "dots" ? "3.4" : "2.4",
    "stroke-linecap": "round",
    "stroke-linejoin": "round",
  });
  return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, path);
}
