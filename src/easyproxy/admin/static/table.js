// A table with keyed rows that becomes cards on a telephone, and shows a part of a long list first.

import { h, keyedList, setAttribute, setText } from "./dom.js";
import { count } from "./format.js";

const isNarrow = matchMedia("(max-width: 46rem)").matches; // a card is as high as three rows

/** A cell that is a button with the text of the row: { act(item), label(item) }. */
export const linkCell = (text, act, label) => () => {
  let newest = null;
  const node = h("button", { type: "button", class: "link", onclick: () => act(newest) });
  return {
    node,
    update(item) {
      newest = item;
      setText(node, text(item));
      if (label) setAttribute(node, "aria-label", label(item));
    },
  };
};

/**
 * columns: { head, text(item) or make(), className, quietHead }. Returns update(items, total).
 * `grow` is called when a person wants more rows than there are.
 */
export function table(parent, { columns, keyOf, empty, step: rows = Infinity, grow = () => {}, caption }) {
  const step = isNarrow ? Math.ceil(rows / 3) : rows;
  const body = h("tbody");
  const heads = columns.map(({ head, className = "", hideHead }) => h("th", { scope: "col", class: className }, hideHead ? h("span", { class: "unseen" }, head) : head));
  const node = h("table", { class: "cards", "aria-label": caption }, h("thead", {}, h("tr", {}, ...heads)), body);
  const nothing = h("p", { class: "quiet empty" }, empty);
  const note = h("span", { class: "quiet small" });
  const more = h("button", { type: "button", class: "plain", onclick: showMore });
  const foot = h("div", { class: "table-foot" }, more, note);
  parent.append(node, nothing, foot);
  let limit = step;
  let newest = [[], 0];

  const show = keyedList(body, () => {
    const cells = columns.map(({ head, text, make, className = "", hideHead }) => {
      const td = h("td", { class: className, "data-label": hideHead ? "" : head });
      if (!make) return { node: td, update: (item) => setText(td, text(item)) };
      const { node: inner, update: fill } = make();
      td.append(inner);
      return { node: td, update: fill };
    });
    return { nodes: [h("tr", {}, ...cells.map((cell) => cell.node))], update: (item) => cells.forEach((cell) => cell.update(item)) };
  });

  function update(items, total = items.length) {
    newest = [items, total];
    const shown = items.slice(0, limit);
    node.hidden = !items.length;
    nothing.hidden = items.length > 0;
    show(shown, keyOf);
    const rest = total - shown.length;
    foot.hidden = rest <= 0;
    setText(more, `Load ${count(Math.min(rest, step))} more`);
    setText(note, `${count(shown.length)} of ${count(total)}`);
  }

  function showMore() {
    limit += step;
    update(...newest);
    grow(limit);
  }
  return update;
}
