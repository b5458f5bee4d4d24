// The smaller tables: listeners, clients, and how sessions ended.

import { h, setText } from "./dom.js";
import { count, size, words } from "./format.js";
import { closeOfClient } from "./operations.js";
import { tell } from "./story.js";
import { linkCell, table } from "./table.js";

const limited = (listener) =>
  listener.max_sessions
    ? `${count(listener.counters.sessions)} / ${count(listener.max_sessions)}`
    : count(listener.counters.sessions);

/** Its name, below it what is not usual: another address, another engine, a limit for each client. */
const poolOf = ({ pool, role, fallback }) => {
  if (!role) return pool;
  return fallback ? `${pool} (${role}, else ${fallback})` : `${pool} (${role})`;
};

function listenerCell() {
  const name = h("b");
  const address = h("span", { class: "mono quiet" });
  const engine = h("span", { class: "quiet" });
  const rate = h("span", { class: "quiet" });
  return {
    node: h("div", { class: "stack" }, name, address, engine, rate),
    update(listener) {
      setText(rate, `${listener.client_rate} from each client, ${count(listener.client_burst)} at once`);
      rate.hidden = !listener.client_rate;
      setText(engine, `${listener.engine} engine`);
      engine.hidden = listener.engine === "relay";
      setText(name, listener.name);
      setText(address, listener.address);
      address.hidden = listener.address === listener.name;
    },
  };
}

export function listeners(parent) {
  const turnedAway = (listener) => listener.counters.refused + listener.counters.no_backend;
  return table(parent, {
    caption: "Listeners",
    columns: [
      { head: "Listener", make: listenerCell },
      { head: "Pool", text: poolOf },
      { head: "Sessions", text: limited, className: "number" },
      { head: "Accepted", text: (listener) => count(listener.counters.accepted), className: "number" },
      { head: "Turned away", text: (listener) => count(turnedAway(listener)), className: "number" },
    ],
    keyOf: (listener) => listener.name,
    empty: "None is configured.",
  });
}

export function clients(parent, grow) {
  return table(parent, {
    caption: "Clients",
    columns: [
      {
        head: "Address",
        className: "mono",
        make: linkCell((client) => client.address, (client) => tell("client", client.address), (client) => `Explain client ${client.address}`),
      },
      { head: "Sessions", text: (client) => count(client.sessions), className: "number" },
      { head: "Sent", text: (client) => size(client.bytes_from_client), className: "number" },
      { head: "Received", text: (client) => size(client.bytes_from_backend), className: "number" },
      {
        head: "Close",
        hideHead: true,
        className: "act",
        make: linkCell(() => "Close …", closeOfClient, (client) => `Close the sessions of ${client.address}`),
      },
    ],
    keyOf: (client) => client.address,
    empty: "Nobody is connected.",
    step: 10,
    grow,
  });
}

export function endings(parent) {
  const show = table(parent, {
    caption: "How sessions ended",
    columns: [
      { head: "Reason", text: ([reason]) => words(reason) },
      { head: "Sessions", text: ([, number]) => count(number), className: "number" },
    ],
    keyOf: ([reason]) => reason,
    empty: "None has ended yet.",
  });
  parent.querySelector("table").classList.remove("cards"); // two columns fit everywhere
  return (ends) =>
    show(
      Object.entries(ends)
        .filter(([, number]) => number > 0)
        .sort(([, a], [, b]) => b - a),
    );
}

/** A field in which one asks about any client address, also one that is not connected. */
export function askAbout(parent) {
  const input = h("input", { type: "text", name: "address", required: true, placeholder: "Address of a client", "aria-label": "Address of a client", autocomplete: "off", spellcheck: "false" });
  const form = h("form", { class: "ask" }, input, h("button", { type: "submit", class: "plain" }, "Explain"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tell("client", input.value.trim());
  });
  parent.append(form);
}
