// Building and updating the page. Text goes in as text only; nothing here ever parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("td", { class: "number" }, "12", child). A function is a listener: { onclick: () => … }. */
export function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else setAttribute(node, name, value);
  }
  node.append(...children);
  return node;
}

/** Set the text if it changed, so that a selection and a screen reader are left alone. */
export function setText(node, text) {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
}

/** Set or (false, null) remove an attribute if it changed. */
export function setAttribute(node, name, value) {
  if (value === false || value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/**
 * Keep children of `parent` in step with a list. `make()` returns { nodes, update(item) }; the same key keeps
 * the same nodes, so focus, selection and opened details survive. Who is gone leaves first: then those that stay
 * are in place already, and none of them is moved (a moved node would lose the focus).
 */
export function keyedList(parent, make) {
  let shown = new Map();
  return function update(items, keyOf) {
    const next = new Map(items.map((item) => [keyOf(item), null]));
    for (const [key, entry] of shown) if (!next.has(key)) entry.nodes.forEach((node) => node.remove());
    const focused = parent.contains(document.activeElement) ? document.activeElement : null;
    let at = parent.firstChild;
    for (const item of items) {
      const key = keyOf(item);
      const entry = next.get(key) ?? shown.get(key) ?? make(item);
      next.set(key, entry);
      entry.update(item);
      for (const node of entry.nodes) {
        if (node === at) at = at.nextSibling;
        else parent.insertBefore(node, at);
      }
    }
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
    shown = next;
  };
}
