// One dialog for every change: what will happen, who, why, how long, the error where the person acted.

import { h, setText } from "./dom.js";
import { icon } from "./icons.js";
import { change, inWords } from "./server.js";
import { toast, warn } from "./toast.js";

let serial = 0;
const remembered = () => {
  try {
    return localStorage.getItem("who") ?? "";
  } catch {
    return ""; // storage is forbidden
  }
};
const remember = (who) => {
  try {
    localStorage.setItem("who", who);
  } catch {
    // then it is typed again
  }
};

/** A field: { name, label, hint, type, value, options: [[value, text]], required, min, max, placeholder }. */
function field({ name, label, hint = "", options, ...attributes }) {
  serial += 1;
  const id = `field-${serial}`;
  const described = hint ? { "aria-describedby": `${id}-hint` } : {};
  const input = options
    ? h("select", { id, name, ...described }, ...options.map(([value, text]) => h("option", { value }, text)))
    : h("input", { id, name, type: "text", autocomplete: "off", spellcheck: "false", ...described, ...attributes });
  const note = hint ? [h("small", { id: `${id}-hint`, class: "quiet" }, hint)] : [];
  return { node: h("div", { class: "field" }, h("label", { for: id }, label), input, ...note), input, name };
}

const WHO = { name: "who", label: "Who", placeholder: "your name", hint: "Kept in this browser." };
const WHY = { name: "why", label: "Why", placeholder: "for those who read it later" };

/** How long: a few usual lengths, or one's own. */
function lengthField({ label = "How long", name = "ttl", never = "until somebody ends it", lengths } = {}) {
  const usual = lengths ?? [["10m", "10 minutes"], ["30m", "30 minutes"], ["2h", "2 hours"], ["24h", "a day"]];
  const choice = field({ name, label, options: [["", never], ...usual, ["own", "another time …"]] });
  const own = h("input", { type: "text", class: "own", "aria-label": "Another time, for example 45m", placeholder: "45m", hidden: true, autocomplete: "off" });
  choice.node.append(own);
  choice.input.addEventListener("change", () => {
    own.hidden = choice.input.value !== "own";
    own.required = !own.hidden;
    if (!own.hidden) own.focus();
  });
  return { ...choice, value: () => (choice.input.value === "own" ? own.value.trim() : choice.input.value) };
}

/** Show a refusal in `place`, with each problem on a line of its own. */
export function showRefusal(place, error) {
  place.replaceChildren(h("p", {}, inWords(error)));
  const problems = (error.problems ?? []).filter((problem) => problem !== error.message);
  if (problems.length) place.append(h("ul", {}, ...problems.map((problem) => h("li", {}, problem))));
  place.hidden = false;
}

/** A native dialog with title, close button and body; gone from the page when it closes. */
export function openDialog(className, title, ...content) {
  serial += 1;
  const id = `dialog-${serial}`;
  const shut = h("button", { type: "button", class: "icon-button", "aria-label": "Close this", onclick: () => dialog.close() }, icon("close"));
  const heading = h("h2", { id, tabindex: "-1" }, title);
  const dialog = h("dialog", { class: className, "aria-labelledby": id }, h("div", { class: "dialog-head" }, heading, shut), ...content);
  const opener = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    // The browser has given the focus back already, and this event comes later: whoever has gone on keeps the focus.
    if (opener?.isConnected && document.activeElement === document.body) opener.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, heading };
}

/**
 * Ask before something is changed.
 *
 * spec: { title, says(values): lines, fields, length: what lengthField takes or false, further fields behind it, button, danger, path,
 * body(values), done(answer): text, prepare(area, allow), after(answer) }. `prepare` fills an area that
 * must be read before; until it has called allow(true) nothing can be sent.
 */
export function operate(spec) {
  const lines = h("div", { class: "says" });
  const area = h("div", { class: "area" });
  const alert = h("div", { class: "alert", role: "alert", hidden: true });
  const fields = (spec.fields ?? []).map(field);
  const length = spec.length ? lengthField(spec.length) : null;
  const who = field({ ...WHO, value: remembered() });
  const why = field(WHY);
  const all = [...fields, ...(length ? [length] : []), ...(spec.further ?? []).map(field), why, who];
  const send = h("button", { type: "submit", class: spec.danger ? "primary danger" : "primary" }, spec.button);
  const cancel = h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", { novalidate: false }, lines, area, h("div", { class: "fields" }, ...all.map(({ node }) => node)), alert, h("div", { class: "dialog-buttons" }, cancel, send));
  const { dialog, heading } = openDialog("operate", spec.title, form);

  const typed = () => Object.fromEntries(all.map((one) => [one.name, one.value ? one.value() : one.input.value.trim()]));
  const tell = () => {
    const said = spec.says?.(typed()) ?? [];
    said.forEach((line, index) => setText(lines.children[index] ?? lines.appendChild(h("p")), line));
    while (lines.children.length > said.length) lines.lastChild.remove();
  };
  tell();
  const clock = setInterval(tell, 1000); // the number of sessions changes while one reads
  form.addEventListener("input", tell);
  dialog.addEventListener("close", () => clearInterval(clock));
  const byFinger = matchMedia("(pointer: coarse)").matches; // a keyboard on the screen would cover what is said
  (byFinger ? heading : (fields[0]?.input ?? why.input)).focus();

  const allow = (may, label = spec.button) => {
    send.disabled = !may;
    setText(send, label);
  };
  if (spec.prepare) {
    allow(false);
    spec.prepare(area, allow).catch((error) => showRefusal(alert, error));
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    alert.hidden = true;
    const values = typed();
    remember(values.who);
    send.disabled = true;
    dialog.setAttribute("aria-busy", "true");
    try {
      const answer = await change(spec.path, { who: values.who, why: values.why, ...spec.body(values) });
      dialog.close();
      toast(spec.done(answer));
      [answer].flat().forEach((made) => made?.warning && warn(made.warning));
      spec.after?.(answer);
    } catch (error) {
      if (dialog.isConnected) showRefusal(alert, error);
      else warn(`${spec.title} ${inWords(error)}`); // it was closed while the answer was waited for
    } finally {
      send.disabled = false;
      dialog.removeAttribute("aria-busy");
    }
  });
}
