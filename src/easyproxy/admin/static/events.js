// The latest events with their causes, newest first.

import { h, keyedList, setText } from "./dom.js";
import { authored, clock, count, moment, words } from "./format.js";
import { icon } from "./icons.js";

const KEPT = 500;
const STEP = 10;

const levelOf = (event) => {
  if (event.level === "error") return "critical";
  if (event.level === "warning") return "warning";
  return /ready|confirmed|^primary$/.test(event.kind) ? "ok" : "info";
};

/** One line of the list. */
export function eventItem() {
  const mark = h("span", { class: "mark" });
  const time = h("time");
  const kind = h("b");
  const text = h("span", { class: "text" });
  const author = h("span", { class: "quiet" });
  const item = h("li", {}, mark, h("div", {}, h("div", { class: "event-head" }, kind, time), text, author));
  function update(event) {
    const level = levelOf(event);
    if (item.dataset.level !== level) {
      item.dataset.level = level;
      mark.replaceChildren(icon(level));
    }
    setText(time, clock(event.at));
    time.dateTime = new Date(event.at * 1000).toISOString();
    time.title = moment(event.at);
    setText(kind, [words(event.kind), event.subject].filter(Boolean).join("  ·  "));
    setText(text, event.text);
    const by = authored(event.author);
    setText(author, by);
    author.hidden = !by || event.text.includes(by); // the sentence may say it already
  }
  return { nodes: [item], update };
}

/** Returns { add(events), reset() }. */
export function events(parent) {
  const list = h("ol", { class: "events" });
  const empty = h("p", { class: "quiet empty" }, "Nothing has happened yet.");
  const more = h("button", { type: "button", class: "plain", onclick: () => show((shown += 2 * STEP)) });
  parent.append(list, empty, more);
  const update = keyedList(list, eventItem);
  let kept = [];
  let shown = STEP;

  function show() {
    update(kept.slice(0, shown), (event) => event.id);
    empty.hidden = kept.length > 0;
    const rest = kept.length - Math.min(shown, kept.length);
    more.hidden = rest === 0;
    setText(more, `Show ${count(Math.min(rest, 2 * STEP))} older`);
  }
  show();
  return {
    add(fresh) {
      kept = [...fresh.toReversed(), ...kept].slice(0, KEPT);
      show();
    },
    reset() {
      kept = [];
      show();
    },
  };
}
