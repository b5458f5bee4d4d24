// The pools, each a panel with its backends in the order of the configuration; a big one gets tiles and a filter.

import { backendRow, COLUMNS } from "./backend.js";
import { h, keyedList, setAttribute, setText } from "./dom.js";
import { count, plural, words } from "./format.js";
import { icon } from "./icons.js";
import { known } from "./known.js";
import { addBackend } from "./operations.js";
import { tiles } from "./tiles.js";

const BIG = 12; // backends; a pool with more shows a part first
const HELD = ["draining", "maintenance"];

let serial = 0;

function poolPanel() {
  serial += 1;
  const title = h("h2", { id: `pool-${serial}` });
  const mark = h("span");
  const ready = h("span");
  const pill = h("span", { class: "pill" }, mark, ready);
  const about = h("span", { class: "pool-about" });
  const writes = h("span", { class: "writes" });
  const add = h("button", { type: "button", class: "plain small-button", onclick: () => addBackend(newest.pool.name) }, icon("plus"), h("span", {}, "Add", h("span", { class: "wide" }, " backend")));
  const map = tiles(jumpTo);
  const filter = h("input", { type: "search", placeholder: "Find a backend", autocomplete: "off", spellcheck: "false", oninput: () => showRows() });
  const note = h("span", { class: "quiet small", role: "status" });
  const tools = h("div", { class: "pool-tools", hidden: true }, map.node, h("div", { class: "filters" }, filter, note));
  const body = h("tbody");
  const headings = COLUMNS.map(([className, text]) => h("th", { class: className, scope: "col" }, text));
  const table = h(
    "table",
    { class: "backends", "aria-labelledby": title.id },
    h("thead", {}, h("tr", {}, ...headings, h("th", { class: "c-more", scope: "col" }, h("span", { class: "unseen" }, "Actions")))),
    body,
  );
  const none = h("p", { class: "quiet empty" }, "This pool has no backends: its clients are turned away.");
  const more = h("button", { type: "button", class: "plain", onclick: () => showRows((limit += 2 * BIG)) });
  const panel = h(
    "section",
    { class: "pool panel", "aria-labelledby": title.id },
    h("div", { class: "pool-head" }, title, pill, writes, about, add),
    tools,
    table,
    none,
    h("div", { class: "table-foot" }, more),
  );
  const rows = new Map();
  const showBackends = keyedList(body, (item) => {
    const row = backendRow();
    rows.set(item.backend.id, row);
    return row;
  });
  let newest = null;
  let limit = BIG;
  let wanted = ""; // a backend that was jumped to is shown even beyond the limit

  function jumpTo(backend) {
    wanted = backend.id;
    filter.value = "";
    showRows();
    rows.get(backend.id)?.reveal();
  }

  function update({ pool, history, now }) {
    newest = { pool, history, now };
    setText(title, pool.name);
    const up = pool.backends.filter(({ state }) => state === "ready").length;
    const level = levelOf(pool, up);
    if (pill.dataset.level !== level) {
      pill.dataset.level = level;
      mark.replaceChildren(icon(level));
    }
    setText(ready, `${up} of ${pool.backends.length} ready`);
    const waiting = pool.queued ? `${plural(pool.queued, "client")} in the queue` : "";
    setText(about, [words(pool.strategy), pool.check && `check: ${pool.check}`, waiting].filter(Boolean).join("  ·  "));
    writes.hidden = !pool.writes;
    if (pool.writes) {
      const { writers, why, held } = pool.writes;
      const names = writers.map((id) => id.slice(pool.name.length + 1)).join(" and ");
      setText(writes, [names ? `Writes go to ${names}` : "Nobody takes writes", held ? `${plural(held, "client")} held` : ""].filter(Boolean).join(", "));
      setAttribute(writes, "title", why);
      writes.classList.toggle("missing", !names);
    }
    setAttribute(filter, "aria-label", `Find a backend of ${pool.name}`);
    setAttribute(add, "aria-label", `Add a backend to ${pool.name}`);
    tools.hidden = pool.backends.length <= BIG && !filter.value && !tools.contains(document.activeElement); // who filters goes on
    if (!tools.hidden) map.update(pool.backends);
    showRows();
  }

  function showRows() {
    const { pool, history, now } = newest;
    const found = select(pool.backends, filter.value.trim().toLowerCase());
    const shown = found.filter((backend, index) => index < limit || backend.id === wanted);
    table.hidden = !pool.backends.length;
    none.hidden = pool.backends.length > 0;
    more.hidden = shown.length === found.length;
    setText(more, `Show ${count(Math.min(2 * BIG, found.length - shown.length))} more`);
    setText(note, `${count(shown.length)} of ${count(pool.backends.length)}${pool.backends.length > BIG && !filter.value ? ", those with trouble first" : ""}`);
    const series = shown.map((backend) => history.of(backend.id));
    const scale = {
      sessionsNow: pool.backends.reduce((most, backend) => Math.max(most, backend.counters.sessions), 0),
      sessions: Math.max(...series.map((one) => one.sessions.max), 0),
      traffic: Math.max(...series.map((one) => one.traffic.max), 0),
    };
    const item = (backend, index) => {
      const overrides = (backend.overrides ?? []).map((id) => known.overrides.get(id)).filter(Boolean);
      return { backend, overrides, series: series[index], scale, now };
    };
    showBackends(shown.map(item), ({ backend }) => backend.id);
    for (const [id, row] of rows) {
      if (body.contains(row.nodes[0])) continue;
      row.gone();
      rows.delete(id);
    }
  }
  return { nodes: [panel], update };
}

const levelOf = ({ backends, writes }, up) => {
  if (writes && !writes.writers.length) return "critical";
  if (up === backends.length && up) return "ok";
  if (backends.some(({ state }) => state === "down") || !backends.length) return up ? "warning" : "critical";
  return backends.some(({ state }) => HELD.includes(state)) ? "held" : "checking";
};

/** Those that fit the text; in a big pool those that are not ready come first. */
function select(backends, text) {
  const fits = text ? backends.filter(({ name, address, state }) => [name, address, state].some((value) => value.toLowerCase().includes(text))) : backends;
  if (backends.length <= BIG) return fits;
  return [...fits.filter(({ state }) => state !== "ready"), ...fits.filter(({ state }) => state === "ready")];
}

/** Returns update(status, history). */
export function pools(parent) {
  const show = keyedList(parent, poolPanel);
  return (status, history) =>
    show(
      status.pools.map((pool) => ({ pool, history, now: status.now })),
      ({ pool }) => pool.name,
    );
}
