// A menu of actions at a button: arrows, Home and End move, Enter acts, Escape closes and gives the focus back.

import { h } from "./dom.js";

/** items: [{ text, act, danger, disabled }], asked for each time the menu opens. */
export function menu(button, itemsOf) {
  button.setAttribute("aria-haspopup", "menu");
  button.setAttribute("aria-expanded", "false");
  let wasOpen = false; // a press beside the menu has closed it before the click comes, also a press on its own button
  button.addEventListener("pointerdown", () => (wasOpen = button.getAttribute("aria-expanded") === "true"));
  button.addEventListener("click", () => {
    if (!wasOpen) open(button, itemsOf());
    wasOpen = false;
  });
  button.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    open(button, itemsOf());
  });
}

function open(button, items) {
  const list = h("div", { role: "menu", class: "menu", popover: "auto", "aria-label": button.getAttribute("aria-label") });
  const entries = items.map(({ text, act, danger }) =>
    h("button", { type: "button", role: "menuitem", tabindex: "-1", class: danger ? "danger" : "", onclick: () => choose(act) }, text),
  );
  const choose = (act) => {
    list.hidePopover();
    button.focus(); // so that a dialog gives the focus back to it
    act();
  };
  list.append(...entries);
  list.addEventListener("keydown", (event) => {
    const at = entries.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (event.key === "Tab") list.hidePopover();
    if (to === undefined) return;
    event.preventDefault();
    entries.at(to % entries.length).focus();
  });
  const follow = () => place(list, button.getBoundingClientRect());
  list.addEventListener("toggle", ({ newState }) => {
    if (newState === "open") return;
    button.setAttribute("aria-expanded", "false");
    removeEventListener("scroll", follow);
    removeEventListener("resize", follow);
    if (list.contains(document.activeElement)) button.focus();
    list.remove();
  });
  document.body.append(list);
  list.showPopover();
  follow();
  button.setAttribute("aria-expanded", "true");
  entries[0]?.focus({ preventScroll: true });
  addEventListener("scroll", follow, { passive: true });
  addEventListener("resize", follow);
}

function place(list, { top, bottom, right }) {
  const { offsetWidth: width, offsetHeight: height } = list;
  const below = bottom + 4 + height <= innerHeight;
  list.style.left = `${Math.max(8, right - width)}px`;
  list.style.top = `${Math.max(8, below ? bottom + 4 : top - 4 - height)}px`;
}
