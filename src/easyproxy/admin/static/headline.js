// The one look: what is well or not, in the page, in the tab's title and in its icon.

import { setAttribute, setText } from "./dom.js";
import { icon } from "./icons.js";

const part = (name) => document.getElementById(name);

/** Show { level, title, detail }; the level is ok, checking, warning, critical or unknown. */
export function showHeadline({ level, title, detail }) {
  const section = part("headline");
  if (section.dataset.level !== level || !part("headline-icon").firstChild) {
    section.dataset.level = level;
    part("dot").dataset.level = level;
    part("headline-icon").replaceChildren(icon(level));
    setAttribute(part("icon"), "href", `/static/icon-${level}.svg`);
  }
  setText(part("headline-title"), title);
  setText(part("headline-detail"), detail);
  document.title = `${title} · EasyProxy`;
}
