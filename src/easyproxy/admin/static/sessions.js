// The live sessions: found by backend, by listener, by any part of a text; asked for only while they are in sight.

import { inTurn } from "./asking.js";
import { h, setText } from "./dom.js";
import { count, size, span, words } from "./format.js";
import { closeSession } from "./operations.js";
import { ask } from "./server.js";
import { tell } from "./story.js";
import { linkCell, table } from "./table.js";

const STEP = 20;
const ASKED = 200; // rows at least, so that the oldest of several workers stand first
const SEARCHED = 2000; // rows that are looked through for a text
const CALM_MS = 250; // after the last key

/** Returns { update(status), refresh() }. */
export function sessions(parent, heading) {
  const search = h("input", { type: "search", placeholder: "Search sessions", "aria-label": "Search sessions by client, backend, listener or id", autocomplete: "off", spellcheck: "false" });
  const backend = select("Backend");
  const listener = select("Listener");
  const found = h("span", { class: "quiet small", role: "status" });
  const trouble = h("p", { class: "alert", role: "alert", hidden: true });
  heading.append(h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() }, search, backend.node, listener.node, found));
  parent.append(trouble);
  let limit = STEP;

  const show = table(parent, {
    caption: "Live sessions",
    columns: [
      {
        head: "Client",
        className: "mono",
        make: linkCell((session) => session.client, (session) => tell("session", session.id), (session) => `Explain the session of ${session.client}`),
      },
      { head: "Listener", text: (session) => session.listener },
      { head: "Backend", text: (session) => session.backend || "none yet" },
      { head: "State", text: (session) => words(session.state) + (session.transaction ? `, transaction: ${session.transaction}` : "") },
      { head: "Age", text: (session) => span(session.age_s), className: "number" },
      { head: "Idle", text: (session) => span(session.idle_s), className: "number" },
      { head: "Sent", text: (session) => size(session.bytes_from_client), className: "number" },
      { head: "Received", text: (session) => size(session.bytes_from_backend), className: "number" },
      {
        head: "Close",
        hideHead: true,
        className: "act",
        make: linkCell(() => "Close …", closeSession, (session) => `Close the session of ${session.client}`),
      },
    ],
    keyOf: (session) => session.id,
    empty: "No session is found.",
    step: STEP,
    grow: (rows) => {
      limit = rows;
      refresh();
    },
  });

  const refresh = inTurn(async () => {
    try {
      const [rows, total] = await find(search.value.trim().toLowerCase());
      show(rows, total);
      setText(found, search.value.trim() || backend.value || listener.value ? `${count(total)} found` : "");
      trouble.hidden = true;
    } catch {
      trouble.hidden = false;
      setText(trouble, "The sessions could not be asked for.");
    }
  });

  async function find(text) {
    const where = { backend: backend.value, listener: listener.value };
    const { body, total } = await ask("/api/sessions", { ...where, limit: text ? SEARCHED : Math.max(limit, ASKED) });
    body.sort((a, b) => b.age_s - a.age_s);
    if (!text) return [body, total];
    const fits = (session) => [session.client, session.backend, session.listener, session.id, words(session.state)].some((value) => value.toLowerCase().includes(text));
    const rows = body.filter(fits);
    if (rows.length || total <= body.length) return [rows, rows.length];
    const whole = await ask("/api/sessions", { ...where, client: text, limit }); // too many to look through: the balancer does
    return [whole.body, whole.total];
  }

  let calm = 0;
  search.addEventListener("input", () => {
    clearTimeout(calm);
    calm = setTimeout(refresh, CALM_MS);
  });
  for (const one of [backend, listener]) one.node.addEventListener("change", refresh);

  return {
    refresh,
    update(status) {
      backend.offer(status.pools.flatMap((pool) => pool.backends.map(({ id }) => id)));
      listener.offer(status.listeners.map(({ name }) => name));
    },
  };
}

/** A choice among names that come and go; what is chosen stays. */
function select(label) {
  const node = h("select", { "aria-label": label }, h("option", { value: "" }, `Every ${label.toLowerCase()}`));
  let offered = "";
  return {
    node,
    get value() {
      return node.value;
    },
    offer(names) {
      const key = names.join("\n");
      if (key === offered) return;
      offered = key;
      const chosen = node.value;
      const all = chosen && !names.includes(chosen) ? [...names, chosen] : names; // its sessions may go on without it
      node.replaceChildren(node.firstChild, ...all.map((name) => h("option", { value: name }, name)));
      node.value = chosen;
    },
  };
}
