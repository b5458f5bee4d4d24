// The pools, each a panel with its backends in the order of the configuration.

import { backendRow, COLUMNS } from "./backend.js";
import { h, keyedList, setText } from "./dom.js";
import { count, words } from "./format.js";
import { icon } from "./icons.js";

let serial = 0;

function poolPanel() {
  serial += 1;
  const title = h("h2", { id: `pool-${serial}` });
  const mark = h("span");
  const ready = h("span");
  const pill = h("span", { class: "pill" }, mark, ready);
  const about = h("span", { class: "pool-about" });
  const body = h("tbody");
  const headings = COLUMNS.map(([className, text]) => h("th", { class: className, scope: "col" }, text));
  const table = h(
    "table",
    { class: "backends", "aria-labelledby": title.id },
    h("thead", {}, h("tr", {}, ...headings, h("th", { class: "c-more", scope: "col", "aria-label": "Details" }))),
    body,
  );
  const panel = h(
    "section",
    { class: "pool panel", "aria-labelledby": title.id },
    h("div", { class: "pool-head" }, title, pill, about),
    table,
  );
  const showBackends = keyedList(body, backendRow);

  function update({ pool, history, now }) {
    setText(title, pool.name);
    const up = pool.backends.filter((backend) => backend.state === "ready").length;
    const level = up === pool.backends.length ? "ok" : up > 0 ? "warning" : anyDown(pool) ? "critical" : "checking";
    if (pill.dataset.level !== level) {
      pill.dataset.level = level;
      mark.replaceChildren(icon(level));
    }
    setText(ready, `${up} of ${pool.backends.length} ready`);
    const waiting = pool.queued ? `${count(pool.queued)} ${pool.queued === 1 ? "client waits" : "clients wait"}` : "";
    setText(about, [words(pool.strategy), pool.check && `check: ${pool.check}`, waiting].filter(Boolean).join("  ·  "));

    const series = pool.backends.map((backend) => history.of(backend.id));
    const scale = {
      sessionsNow: Math.max(...pool.backends.map((backend) => backend.counters.sessions), 0),
      sessions: Math.max(...series.map((one) => one.sessions.max), 0),
      traffic: Math.max(...series.map((one) => one.traffic.max), 0),
    };
    showBackends(
      pool.backends.map((backend, index) => ({ backend, series: series[index], scale, now })),
      ({ backend }) => backend.id,
    );
  }
  return { nodes: [panel], update };
}

const anyDown = (pool) => pool.backends.some((backend) => backend.state === "down") || !pool.backends.length;

/** Returns update(status, history). */
export function pools(parent) {
  const show = keyedList(parent, poolPanel);
  return (status, history) =>
    show(
      status.pools.map((pool) => ({ pool, history, now: status.now })),
      ({ pool }) => pool.name,
    );
}
