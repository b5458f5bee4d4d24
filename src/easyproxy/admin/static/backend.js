// One backend: a row with what matters, and below it, on demand, everything that is known.

import { h, setAttribute, setText } from "./dom.js";
import { count, latency, moment, rate, size, span } from "./format.js";
import { icon } from "./icons.js";
import { sparkline } from "./spark.js";

const WORDS = { ready: "Ready", down: "Down", checking: "Checking" };
export const COLUMNS = [
  ["c-state", "State"],
  ["c-name", "Backend"],
  ["c-sessions", "Sessions"],
  ["c-traffic", "Throughput"],
  ["c-total number", "Served"],
  ["c-errors number", "Errors"],
  ["c-probe number", "Last probe"],
];

/** What went wrong with this backend: refused, timed out, reset by it. Clients that leave are not its errors. */
const errors = ({ counters: c }) => c.connect_errors + c.backend_resets + c.timeouts;

/** Sessions in relation to the limit, or without one to the busiest neighbour. */
function load(backend, scale) {
  const most = backend.max_sessions || scale.sessionsNow;
  return most ? Math.min(1, backend.counters.sessions / most) : 0;
}

function facts(backend, now) {
  const { counters: c, last_probe: probe } = backend;
  const since = (at) => `${moment(at)}, ${span(now - at)} ago`;
  const weight =
    backend.effective_weight === backend.weight
      ? `${backend.weight}`
      : `${Number(backend.effective_weight.toFixed(2))} of ${backend.weight} (slow start)`;
  return [
    [`${WORDS[backend.state] ?? backend.state} since`, since(backend.since)],
    ["Why", backend.reason || "–"],
    ["Last probe", probe ? `${probe.outcome}: ${probe.detail || "–"} (${latency(probe.duration_s)})` : "none yet"],
    ["Last error", backend.last_error ? `${backend.last_error}, ${since(backend.last_error_at)}` : "none"],
    ["Address", backend.address],
    ["Weight", weight],
    ["Session limit", backend.max_sessions ? count(backend.max_sessions) : "none"],
    ["Role", backend.backup ? "backup: serves when no other can" : "serves"],
    ["From clients", size(c.bytes_from_client)],
    ["To clients", size(c.bytes_from_backend)],
    ["Connects refused or timed out", count(c.connect_errors)],
    ["Resets by backend / client", `${count(c.backend_resets)} / ${count(c.client_resets)}`],
    ["Sessions ended by a time limit", count(c.timeouts)],
    ["Retried on another backend", count(c.retries)],
    ["Errors of this machine", count(c.local_errors)],
  ];
}

let serial = 0;

/** Returns { nodes, update({ backend, series, scale, now }) }. */
export function backendRow() {
  serial += 1;
  const id = `details-${serial}`;
  const t = (className = "") => h("span", className ? { class: className } : {});

  const stateIcon = t();
  const state = t();
  const pill = h("span", { class: "pill" }, stateIcon, state);
  const since = t("small");
  const name = t();
  const backup = h("span", { class: "tag" }, "backup");
  const address = h("span", { class: "mono quiet" });
  const why = t("small why one-line");
  const sessions = t("value");
  const sessionsSpark = sparkline();
  const fill = h("i");
  const bar = h("div", { class: "load" }, fill);
  const traffic = t("value");
  const trafficSpark = sparkline("second");
  const served = t("value");
  const transferred = t("small");
  const failures = t("value");
  const probe = t("value");
  const probeAge = t("small");
  const more = h("button", { class: "more", type: "button", "aria-expanded": "false", "aria-controls": id }, icon("chevron"));
  const list = h("dl", { class: "facts" });
  const details = h("tr", { class: "details", id, hidden: true }, h("td", { colspan: COLUMNS.length + 1 }, list));

  const cell = (index, ...children) => h("td", { class: COLUMNS[index][0] }, ...children);
  const row = h(
    "tr",
    { class: "row" },
    cell(0, h("div", { class: "stack" }, h("span", {}, pill), since)),
    cell(1, h("div", { class: "stack" }, h("span", { class: "name" }, name, backup), address, why)),
    cell(2, h("div", { class: "gauge" }, sessions, sessionsSpark.node, bar)),
    cell(3, h("div", { class: "gauge" }, traffic, trafficSpark.node)),
    cell(4, h("div", { class: "stack" }, served, transferred)),
    cell(5, h("div", { class: "stack" }, failures)),
    cell(6, h("div", { class: "stack" }, probe, probeAge)),
    h("td", { class: "c-more" }, more),
  );

  let newest = null;
  const showFacts = () => {
    const rows = facts(newest.backend, newest.now);
    rows.forEach(([term, text], index) => {
      const pair = list.children[index] ?? list.appendChild(h("div", {}, h("dt"), h("dd")));
      setText(pair.firstChild, term);
      setText(pair.lastChild, text);
    });
  };
  more.addEventListener("click", () => {
    details.hidden = !details.hidden;
    setAttribute(more, "aria-expanded", details.hidden ? "false" : "true");
    if (!details.hidden) showFacts();
  });

  function update({ backend, series, scale, now }) {
    newest = { backend, now };
    if (row.dataset.state !== backend.state) {
      row.dataset.state = backend.state;
      stateIcon.replaceChildren(icon(backend.state));
    }
    setText(state, WORDS[backend.state] ?? backend.state);
    setText(since, `for ${span(now - backend.since)}`);
    setText(name, backend.name);
    backup.hidden = !backend.backup;
    setText(address, backend.address);
    address.hidden = backend.address === backend.name;
    setText(why, backend.reason);
    setAttribute(why, "title", backend.reason);

    const c = backend.counters;
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
    setText(transferred, size(c.bytes_from_client + c.bytes_from_backend));
    setText(failures, count(errors(backend)));
    failures.classList.toggle("bad", errors(backend) > 0);
    for (const [node, value] of [[failures, errors(backend)], [sessions, c.sessions], [traffic, series.traffic.last]]) {
      node.classList.toggle("none", value === 0);
    }
    const last = backend.last_probe;
    setText(probe, last ? latency(last.duration_s) : "–");
    setText(probeAge, last ? `${span(now - last.at)} ago` : "");
    setAttribute(more, "aria-label", `Details of ${backend.name}`);
    if (!details.hidden) showFacts();
  }
  return { nodes: [row, details], update };
}
