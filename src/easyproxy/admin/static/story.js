// The story of a backend, a session or a client (GET /api/explain), in a panel at the side.

import { openDialog, showRefusal } from "./dialog.js";
import { h } from "./dom.js";
import { eventItem } from "./events.js";
import { icon } from "./icons.js";
import { latency, size, span, words } from "./format.js";
import { ask } from "./server.js";

/** kind is backend, session or client. */
export function tell(kind, subject) {
  const body = h("div", { class: "story", "aria-live": "polite", tabindex: "0", role: "group", "aria-label": "Story" });
  const again = h("button", { type: "button", class: "plain", onclick: () => load() }, icon("reload"), "Ask again");
  const { dialog, heading } = openDialog("side", `${kind[0].toUpperCase()}${kind.slice(1)} ${subject}`, body, h("div", { class: "dialog-buttons" }, again));
  heading.focus();
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside the panel

  async function load() {
    body.setAttribute("aria-busy", "true");
    try {
      body.replaceChildren(...parts((await ask("/api/explain", { kind, subject })).body));
    } catch (error) {
      const alert = h("div", { class: "alert", role: "alert" });
      showRefusal(alert, error);
      body.replaceChildren(alert);
    }
    body.removeAttribute("aria-busy");
  }
  load();
}

/** A number and its unit stay on one line. */
const whole = (line) => line.replace(/(\d) (?=%|(?:ms|s|min|h|d|B|[KMGTP]iB)\b)/g, "$1\u00a0");

function* parts(story) {
  yield h("p", { class: "story-headline" }, story.headline);
  if (story.lines.length) yield h("ol", { class: "lines" }, ...story.lines.map((line) => h("li", {}, whole(line))));
  if (story.session) yield* session(story.session);
  if (story.choice) yield* choice(story.choice);
  if (story.events?.length) {
    yield h("h3", {}, "What happened");
    const list = [...story.events].reverse().map((event) => {
      const item = eventItem();
      item.update(event);
      return item.nodes[0];
    });
    yield h("ol", { class: "events" }, ...list);
  }
}

function* session(it) {
  const facts = [
    ["Client", it.client],
    ["Listener", it.listener],
    ["Backend", it.backend || "none"],
    it.state && ["State", words(it.state)],
    it.reason && ["Ended", words(it.reason) + (it.detail ? `: ${it.detail}` : "")],
    ["Age", span(it.age_s)],
    it.connect_s >= 0 && ["Until a backend stood", latency(it.connect_s)],
    ["From / to client", `${size(it.bytes_from_client)} / ${size(it.bytes_from_backend)}`],
    ...(it.tried ?? []).map(({ backend, why }) => [`Passed over: ${backend}`, why]),
  ].filter(Boolean);
  yield h("h3", {}, "The session");
  yield h("dl", { class: "facts" }, ...facts.map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text))));
}

function* choice({ pool, strategy, candidates, is_certain: certain, note }) {
  yield h("h3", {}, `Where a new session goes in ${pool}`);
  const how = certain ? "This is certain" : "This is likely, not certain";
  yield h("p", { class: "quiet" }, `${words(strategy)}. ${how}${note ? `: ${note}` : ""}.`);
  const items = candidates.map(({ backend, rank, why }) =>
    h("li", { class: rank ? "" : "left-out" }, h("span", { class: "rank" }, rank || "–"), h("span", {}, h("b", {}, backend), " ", h("span", { class: "quiet" }, why))),
  );
  yield h("ol", { class: "candidates" }, ...items);
}
