// A sparkline: the shape of the last two minutes, drawn over time and not over samples, so a gap stays a gap in time.

import { svg } from "./dom.js";
import { WINDOW_S } from "./history.js";

const WIDTH = 120;
const HEIGHT = 28;

/** Returns { node, draw(series, now, max) }; `max` gives neighbours the same scale. */
export function sparkline(extraClass = "") {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const node = svg(
    "svg",
    {
      class: `spark ${extraClass}`.trim(),
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    area,
    line,
  );
  function draw(series, now, max = series.max) {
    node.classList.toggle("flat", series.max === 0);
    // A young history fills the width too; from then on the window slides.
    const window = Math.min(WINDOW_S, Math.max(20, now - (series.points[0]?.[0] ?? now)));
    const top = max > 0 ? max * 1.08 : 1;
    const points = series.points.map(([at, value]) => {
      const x = WIDTH - ((now - at) / window) * WIDTH;
      const y = HEIGHT - 1.5 - (value / top) * (HEIGHT - 3);
      return `${x.toFixed(2)} ${y.toFixed(2)}`;
    });
    const path = points.length > 1 ? `M${points.join("L")}` : "";
    line.setAttribute("d", path);
    const ends = [points[0], points[points.length - 1]].map((point) => point?.split(" ")[0]);
    area.setAttribute("d", path && `${path}L${ends[1]} ${HEIGHT}L${ends[0]} ${HEIGHT}Z`);
  }
  return { node, draw };
}
