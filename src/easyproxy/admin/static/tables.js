// The three small tables below: listeners, clients, and how sessions ended.

import { h, keyedList, setText } from "./dom.js";
import { count, size, words } from "./format.js";

const SHOWN = 10;

/** columns: [heading, textOf(item), className]. Returns update(items, note). */
function simpleTable(parent, columns, keyOf, emptyText) {
  const body = h("tbody");
  const table = h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ...columns.map(([text, , name]) => h("th", { scope: "col", class: name ?? "" }, text)))),
    body,
  );
  const empty = h("p", { class: "quiet empty" }, emptyText);
  const more = h("p", { class: "small" });
  parent.append(table, empty, more);
  const show = keyedList(body, () => {
    const cells = columns.map(([, , name]) => h("td", { class: name ?? "" }));
    const row = h("tr", {}, ...cells);
    return {
      nodes: [row],
      update: (item) => columns.forEach(([, textOf], index) => setText(cells[index], textOf(item))),
    };
  });
  return function update(items, note = "") {
    table.hidden = !items.length;
    empty.hidden = items.length > 0;
    show(items, keyOf);
    setText(more, note);
    more.hidden = !note;
  };
}

const limited = (listener) =>
  listener.max_sessions
    ? `${count(listener.counters.sessions)} / ${count(listener.max_sessions)}`
    : count(listener.counters.sessions);

export function listeners(parent) {
  const turnedAway = (listener) => listener.counters.refused + listener.counters.no_backend;
  return simpleTable(
    parent,
    [
      ["Address", (listener) => listener.address, "mono"],
      ["Pool", (listener) => listener.pool],
      ["Sessions", limited, "number"],
      ["Accepted", (listener) => count(listener.counters.accepted), "number"],
      ["Turned away", (listener) => count(turnedAway(listener)), "number"],
    ],
    (listener) => listener.name,
    "None is configured.",
  );
}

export function clients(parent) {
  const show = simpleTable(
    parent,
    [
      ["Address", (client) => client.address, "mono"],
      ["Sessions", (client) => count(client.sessions), "number"],
      ["Sent", (client) => size(client.bytes_from_client), "number"],
      ["Received", (client) => size(client.bytes_from_backend), "number"],
    ],
    (client) => client.address,
    "Nobody is connected.",
  );
  return (rows, total) => {
    const hidden = Math.max(total, rows.length) - Math.min(rows.length, SHOWN);
    show(rows.slice(0, SHOWN), hidden ? `and ${count(hidden)} more` : "");
  };
}

export function endings(parent) {
  const show = simpleTable(
    parent,
    [
      ["Reason", ([reason]) => words(reason)],
      ["Sessions", ([, number]) => count(number), "number"],
    ],
    ([reason]) => reason,
    "None has ended yet.",
  );
  return (ends) =>
    show(
      Object.entries(ends)
        .filter(([, number]) => number > 0)
        .sort(([, a], [, b]) => b - a),
    );
}
