// What has just been done, in a sentence that goes away by itself; a screen reader reads it out. A warning stays longer.

import { h } from "./dom.js";

const SHOWN_MS = 6000;
const WARNING_SHOWN_MS = 30000;

function show(shownMs, ...content) {
  const node = h("p", { class: "toast" }, ...content);
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), shownMs);
}

export const toast = (text) => show(SHOWN_MS, text);

export const warn = (text) => show(WARNING_SHOWN_MS, h("b", {}, "Warning: "), text);
