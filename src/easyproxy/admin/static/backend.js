// One backend: a row with what matters, its menu, and below it, on demand, everything that is known.

import { chips } from "./changes.js";
import { h, setAttribute, setText } from "./dom.js";
import { errors, facts, hasConnects, WORDS } from "./facts.js";
import { count, latency, plural, rate, span } from "./format.js";
import { icon } from "./icons.js";
import { menu } from "./menu.js";
import { actionsOf } from "./operations.js";
import { sparkline } from "./spark.js";
import { tell } from "./story.js";

export const COLUMNS = [
  ["c-state", "State"],
  ["c-name", "Backend"],
  ["c-sessions", "Sessions"],
  ["c-traffic", "Throughput"],
  ["c-total number", "Served"],
  ["c-connect number", "Connect"],
  ["c-probe number", "Last probe"],
];

/** primary, replica, replica 7.2 s behind */
const roleOf = ({ role, lag, lag_s: seconds }) => (role === "replica" && lag && seconds !== 0 ? `${role}, ${lag}` : role);

const roleTitle = (backend) => {
  if (backend.takes_writes) return "It says that it is the primary, and takes the writes of its pool";
  if (backend.role === "primary") return "It says that it is the primary; no writes go there";
  return backend.is_lagging ? "It lags too far to serve as a replica" : "It says that it is a replica";
};

/** Sessions in relation to the limit, or without one to the busiest neighbour. */
function load(backend, scale) {
  const most = backend.max_sessions || scale.sessionsNow;
  return most ? Math.min(1, backend.counters.sessions / most) : 0;
}

// Only rows in sight are drawn: a thousand backends cost no more than the screen holds.
const inSight = new WeakMap();
const watch = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const row = inSight.get(target);
      row.seen = isIntersecting;
      if (isIntersecting) row.draw();
    }
  },
  { rootMargin: "200px" },
);

let serial = 0;

/** Returns { nodes, update({ backend, overrides, series, scale, now }), reveal() }. */
export function backendRow() {
  serial += 1;
  const id = `details-${serial}`;
  const t = (className = "") => h("span", className ? { class: className } : {});

  const stateIcon = t();
  const state = t();
  const pill = h("span", { class: "pill" }, stateIcon, state);
  const since = t("small");
  const name = h("button", { type: "button", class: "name", onclick: () => explain() });
  const backup = h("span", { class: "tag" }, "backup");
  const role = h("span", { class: "tag role" });
  const address = h("span", { class: "mono quiet one-line" });
  const why = t("small why one-line");
  const changed = chips();
  const sessions = t("value");
  const sessionsSpark = sparkline();
  const fill = h("i");
  const bar = h("div", { class: "load" }, fill);
  const traffic = t("value");
  const trafficSpark = sparkline("second");
  const served = t("value");
  const failures = t("small");
  const connect = t("value");
  const connectTail = t("small");
  const probe = t("value");
  const probeAge = t("small");
  const actions = h("button", { class: "icon-button", type: "button" }, icon("dots"));
  const more = h("button", { class: "icon-button more", type: "button", "aria-expanded": "false", "aria-controls": id }, icon("chevron"));
  const all = facts();
  const details = h("tr", { class: "details", id, hidden: true }, h("td", { colspan: COLUMNS.length + 1 }, all.node));

  const cell = (index, ...children) => h("td", { class: COLUMNS[index][0] }, ...children);
  const row = h(
    "tr",
    { class: "row" },
    cell(0, h("div", { class: "stack" }, h("span", {}, pill), since)),
    cell(1, h("div", { class: "stack" }, h("span", {}, name, role, backup), address, why, changed.node)),
    cell(2, h("div", { class: "gauge" }, sessions, sessionsSpark.node, bar)),
    cell(3, h("div", { class: "gauge" }, traffic, trafficSpark.node)),
    cell(4, h("div", { class: "stack" }, served, failures)),
    cell(5, h("div", { class: "stack" }, connect, connectTail)),
    cell(6, h("div", { class: "stack" }, probe, probeAge)),
    h("td", { class: "c-more" }, h("div", { class: "buttons" }, actions, more)),
  );

  let newest = null;
  const explain = () => tell("backend", newest.backend.id);
  menu(actions, () => actionsOf(newest.backend, explain));
  const open = (wanted) => {
    details.hidden = !wanted;
    setAttribute(more, "aria-expanded", wanted ? "true" : "false");
    if (wanted) all.update(newest.backend, newest.overrides, newest.now);
  };
  more.addEventListener("click", () => open(details.hidden));

  const view = { seen: false, draw };
  inSight.set(row, view);
  watch.observe(row);

  let drawn = false;
  function update(item) {
    newest = item;
    if (row.dataset.state !== item.backend.state) {
      row.dataset.state = item.backend.state;
      stateIcon.replaceChildren(icon(item.backend.state));
      setText(state, WORDS[item.backend.state] ?? item.backend.state);
    }
    setText(name, item.backend.name);
    if (view.seen || !drawn) draw();
  }

  function draw() {
    drawn = true;
    const { backend, overrides, series, scale, now } = newest;
    const { counters: c, last_probe: last } = backend;
    setText(since, `for ${span(now - backend.since)}`);
    setAttribute(name, "title", `Explain ${backend.name}`);
    backup.hidden = !backend.backup;
    role.hidden = !backend.role;
    setText(role, roleOf(backend));
    role.classList.toggle("writes", backend.takes_writes);
    role.classList.toggle("lagging", backend.is_lagging || backend.is_rival);
    setAttribute(role, "title", roleTitle(backend));
    setText(address, backend.address);
    address.hidden = backend.address === backend.name;
    const held = backend.state !== "ready" && backend.state !== "down" && overrides.length > 0; // the chip says why
    // Of one that is well the newest probe says more than the one that made it so.
    const words = backend.state === "ready" && last?.outcome === "success" && last.detail ? last.detail : backend.reason;
    setText(why, words);
    setAttribute(why, "title", words);
    why.hidden = held || !words;
    changed.update(overrides, now);

    setText(sessions, backend.max_sessions ? `${count(c.sessions)} / ${count(backend.max_sessions)}` : count(c.sessions));
    sessionsSpark.draw(series.sessions, now, scale.sessions);
    const part = load(backend, scale);
    fill.style.width = `${(part * 100).toFixed(1)}%`;
    bar.classList.toggle("share", !backend.max_sessions);
    bar.classList.toggle("nearly", backend.max_sessions > 0 && part >= 0.8 && part < 1);
    bar.classList.toggle("full", backend.max_sessions > 0 && part >= 1);
    setText(traffic, rate(series.traffic.last));
    trafficSpark.draw(series.traffic, now, scale.traffic);

    setText(served, count(c.total));
    setText(failures, errors(backend) ? plural(errors(backend), "error") : "no errors");
    failures.classList.toggle("bad", errors(backend) > 0);
    for (const [node, value] of [[served, c.total], [sessions, c.sessions], [traffic, series.traffic.last]]) {
      node.classList.toggle("none", value === 0);
    }
    setText(connect, hasConnects(backend) ? latency(backend.connect_p50_s) : "–");
    setText(connectTail, hasConnects(backend) ? `p95 ${latency(backend.connect_p95_s)}` : "");
    setAttribute(connect, "title", hasConnects(backend) ? "Half of its sessions had connected within this time" : null);
    setText(probe, last ? latency(last.duration_s) : "–");
    setText(probeAge, last ? `${span(now - last.at)} ago` : "");
    setAttribute(more, "aria-label", `Details of ${backend.name}`);
    setAttribute(actions, "aria-label", `Actions on ${backend.name}`);
    if (!details.hidden) all.update(backend, overrides, now);
  }

  function reveal() {
    open(true);
    row.scrollIntoView({ block: "center" });
    name.focus({ preventScroll: true });
  }
  return { nodes: [row, details], update, reveal, gone: () => watch.unobserve(row) };
}
