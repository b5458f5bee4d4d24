// What must not be overlooked: a reload that waits for its confirmation, one that was refused, changes in conflict.

import { h, keyedList, setText } from "./dom.js";
import { inShort } from "./changes.js";
import { icon } from "./icons.js";
import { forget } from "./operations.js";
import { confirm, reload, rollback } from "./reload.js";
import { clock, span } from "./format.js";

/** Seconds while they count, then minutes. */
const countdown = (seconds) => (seconds < 100 ? `${Math.max(0, Math.ceil(seconds))} s` : span(seconds));

function* noticesOf({ state, overrides, now }) {
  if (state?.confirm_until > now) {
    yield {
      key: `unconfirmed ${state.at}`,
      level: "warning",
      title: "The new configuration waits to be confirmed",
      text: `It goes back by itself in ${countdown(state.confirm_until - now)}.`,
      buttons: [["Keep it …", confirm, "primary"], ["Go back now …", rollback, "plain"]],
    };
  }
  if (state?.outcome === "refused") {
    yield {
      key: `refused ${state.at}`,
      level: "critical",
      title: "The file was refused; the former configuration stays in force",
      text: `${clock(state.at)}: ${state.detail}`,
      buttons: [["Look again …", reload, "plain"]],
    };
  }
  for (const override of overrides.filter(({ conflict }) => conflict)) {
    yield {
      key: `conflict ${override.id}`,
      level: "warning",
      title: `Conflict at ${override.backend}: ${inShort(override)}`,
      text: `${override.conflict}. What the operator said goes on until it is forgotten.`,
      buttons: [["Forget the change …", () => forget(override, inShort(override)), "plain"]],
    };
  }
}

function notice({ level, buttons }) {
  const title = h("b");
  const text = h("span", { class: "quiet", "aria-live": "off" }); // a countdown is not read out each second
  const acts = [];
  const nodes = buttons.map(([label, , style], index) => h("button", { type: "button", class: style, onclick: () => acts[index]() }, label));
  const node = h("div", { class: "notice", "data-level": level }, h("span", { class: "mark" }, icon(level)), h("div", { class: "stack" }, title, text), h("div", { class: "buttons" }, ...nodes));
  return {
    nodes: [node],
    update(item) {
      setText(title, item.title);
      setText(text, item.text);
      item.buttons.forEach(([, act], index) => (acts[index] = act));
    },
  };
}

/** Returns update({ state, overrides, now }). */
export function notices(parent) {
  const show = keyedList(parent, notice);
  return (what) => show([...noticesOf(what)], ({ key }) => key);
}
