// What operators have laid over the file: in words, as a table, and as chips at the backends.

import { h, keyedList, setText } from "./dom.js";
import { authored, clock, remaining, span, words } from "./format.js";
import { forget } from "./operations.js";
import { table } from "./table.js";

const plain = (value) => (value !== null && typeof value === "object" ? (value.address ?? Object.values(value).join(", ")) : value);

/** weight 1 → 3 */
export function inShort({ action, value, base, at, deadline }) {
  if (action === "weight") return base === null || base === undefined ? `weight ${value}` : `weight ${plain(base)} → ${plain(value)}`;
  if (action === "add") return `added: ${plain(value)}`;
  const what = { drain: "drain", maintenance: "maintenance", remove: "removed" }[action] ?? words(action);
  return deadline ? `${what}, deadline ${span(deadline - at)}` : what;
}

export const left = ({ until }, now) => (until ? (until > now ? `${remaining(until - now)} left` : "overdue") : "");

const ends = ({ until }, now) => (until ? (until > now ? `in ${remaining(until - now)}` : "overdue") : "when forgotten");

/** A button in a cell that takes the change of its row back. */
function forgetCell() {
  let newest = null;
  const node = h("button", { type: "button", class: "link", onclick: () => forget(newest, inShort(newest)) }, "Forget …");
  return {
    node,
    update(override) {
      newest = override;
      node.setAttribute("aria-label", `Forget: ${override.backend} ${inShort(override)}`);
    },
  };
}

function whatCell() {
  const what = h("b");
  const conflict = h("span", { class: "conflict" });
  return {
    node: h("div", { class: "stack" }, what, conflict),
    update(override) {
      setText(what, inShort(override));
      setText(conflict, override.conflict);
      conflict.hidden = !override.conflict;
    },
  };
}

/** The table of overrides. Returns update(overrides, now). */
export function changes(parent) {
  const show = table(parent, {
    caption: "Changes laid over the file",
    columns: [
      { head: "Backend", text: ({ override }) => override.backend },
      { head: "Change", make: () => over(whatCell()) },
      { head: "By", text: ({ override }) => authored(override.author).replace(/^by /, "") || "–" },
      { head: "Since", text: ({ override }) => clock(override.at) },
      { head: "Ends", text: ({ override, now }) => ends(override, now) },
      { head: "Forget", hideHead: true, className: "act", make: () => over(forgetCell()) },
    ],
    keyOf: ({ override }) => override.id,
    empty: "Nothing: what the file says is in force.",
    step: 20,
  });
  return (overrides, now) =>
    show(overrides.toSorted((a, b) => Boolean(b.conflict) - Boolean(a.conflict) || b.at - a.at).map((override) => ({ override, now })));
}

const over = ({ node, update }) => ({ node, update: ({ override }) => update(override) });

/** The changes of one backend, below its name. Returns { node, update(overrides, now) }. */
export function chips() {
  const node = h("div", { class: "chips" });
  const show = keyedList(node, () => {
    const text = h("span");
    const chip = h("span", { class: "chip" }, text);
    return {
      nodes: [chip],
      update({ override, now }) {
        const { author } = override;
        const parts = [inShort(override), author?.who && `by ${author.who}`, author?.why, left(override, now)];
        setText(text, parts.filter(Boolean).join(" · "));
        chip.classList.toggle("conflicting", Boolean(override.conflict));
        chip.title = [authored(author), override.conflict].filter(Boolean).join("\n");
      },
    };
  });
  return {
    node,
    update(overrides, now) {
      node.hidden = !overrides.length;
      show(overrides.map((override) => ({ override, now })), ({ override }) => override.id);
    },
  };
}
