// What has just been done, in a sentence that goes away by itself; a screen reader reads it out.

import { h } from "./dom.js";

const SHOWN_MS = 6000;

export function toast(text) {
  const node = h("p", { class: "toast" }, text);
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), SHOWN_MS);
}
