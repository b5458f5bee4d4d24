// A big pool at one look: a tile for each backend, coloured by its state. Arrows move, Enter shows the backend.

import { h, keyedList, setAttribute } from "./dom.js";

/** Returns { node, update(backends) }; `choose(backend)` is called for a tile. */
export function tiles(choose) {
  const node = h("div", { class: "tiles", role: "group", "aria-label": "Backends by state; arrows move, Enter shows one" });
  const newest = new Map();
  const show = keyedList(node, () => {
    const tile = h("button", { type: "button", class: "tile", tabindex: "-1" });
    return {
      nodes: [tile],
      update(backend) {
        tile.dataset.id = backend.id;
        if (tile.dataset.state !== backend.state) tile.dataset.state = backend.state;
        const name = `${backend.name}: ${backend.state}`;
        if (tile.title !== name) {
          tile.title = name;
          setAttribute(tile, "aria-label", name);
        }
      },
    };
  });

  node.addEventListener("click", ({ target }) => target.dataset.id && choose(newest.get(target.dataset.id)));
  node.addEventListener("keydown", (event) => {
    const all = [...node.children];
    const at = all.indexOf(document.activeElement);
    const wide = all.filter((tile) => tile.offsetTop === all[0].offsetTop).length;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + wide, ArrowUp: at - wide, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = all[Math.min(Math.max(to, 0), all.length - 1)];
    all[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  return {
    node,
    update(backends) {
      newest.clear();
      for (const backend of backends) newest.set(backend.id, backend);
      node.classList.toggle("tiny", backends.length > 150);
      show(backends, ({ id }) => id);
      if (node.firstChild && !node.querySelector("[tabindex='0']")) node.firstChild.tabIndex = 0;
    },
  };
}
