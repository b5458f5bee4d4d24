// Everything that is known of one backend, below its row. Pure, but for the list that it fills.

import { h, setText } from "./dom.js";
import { authored, count, latency, moment, size, span } from "./format.js";
import { inShort } from "./changes.js";

export const WORDS = { ready: "Ready", down: "Down", checking: "Checking", draining: "Draining", maintenance: "Maintenance" };

/** What went wrong with this backend: refused, timed out, reset by it. Clients that leave are not its errors. */
export const errors = ({ counters: c }) => c.connect_errors + c.backend_resets + c.timeouts;

export const hasConnects = (backend) => backend.connect_p50_s > 0;

function* factsOf(backend, overrides, now) {
  const { counters: c, last_probe: probe } = backend;
  const since = (at) => `${moment(at)}, ${span(now - at)} ago`;
  const slow = `${Number(backend.effective_weight.toFixed(2))} of ${backend.weight} (slow start)`;
  yield [`${WORDS[backend.state] ?? backend.state} since`, since(backend.since)];
  yield ["Why", backend.reason || "–"];
  for (const override of overrides) {
    const until = override.until ? `until ${moment(override.until)}` : "until it is forgotten";
    yield [`Changed: ${inShort(override)}`, [authored(override.author), until, override.conflict].filter(Boolean).join("; ")];
  }
  yield ["Last probe", probe ? `${probe.outcome}: ${probe.detail || "–"} (${latency(probe.duration_s)})` : "none yet"];
  yield ["Last error", backend.last_error ? `${backend.last_error}, ${since(backend.last_error_at)}` : "none"];
  const connects = [["half", "p50"], ["95 %", "p95"], ["99 %", "p99"]].map(([share, name]) => `${share} within ${latency(backend[`connect_${name}_s`] ?? 0)}`);
  yield ["Connected", hasConnects(backend) ? connects.join(", ") : "no session yet"];
  yield ["Address", backend.address];
  yield ["Weight", backend.effective_weight === backend.weight || backend.state !== "ready" ? `${backend.weight}` : slow];
  yield ["Session limit", backend.max_sessions ? count(backend.max_sessions) : "none"];
  yield ["Serves", backend.backup ? "as a backup, when no other can" : "always"];
  if (backend.role) {
    const told = [backend.role, backend.lag, backend.timeline ? `timeline ${backend.timeline}` : ""].filter(Boolean).join(", ");
    yield ["Role, as it says", `${told}; since ${since(backend.role_since)}`];
    yield ["Writes", backend.takes_writes ? "go here" : "do not go here"];
  }
  if (backend.server_version) yield ["Server", backend.server_version];
  for (const [word, what] of backend.notes ?? []) yield [word, what];
  yield ["From clients", size(c.bytes_from_client)];
  yield ["To clients", size(c.bytes_from_backend)];
  yield ["Connects refused or timed out", count(c.connect_errors)];
  yield ["Resets by backend / client", `${count(c.backend_resets)} / ${count(c.client_resets)}`];
  yield ["Sessions ended by a time limit", count(c.timeouts)];
  yield ["Retried on another backend", count(c.retries)];
  yield ["Errors of this machine", count(c.local_errors)];
}

/** Returns { node, update(backend, overrides, now) }. */
export function facts() {
  const node = h("dl", { class: "facts" });
  function update(backend, overrides, now) {
    const rows = [...factsOf(backend, overrides, now)];
    rows.forEach(([term, text], index) => {
      const pair = node.children[index] ?? node.appendChild(h("div", {}, h("dt"), h("dd")));
      setText(pair.firstChild, term);
      setText(pair.lastChild, text);
    });
    while (node.children.length > rows.length) node.lastChild.remove();
  }
  return { node, update };
}
