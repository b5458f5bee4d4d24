// The file and what is in force: how the last reload stands, a new one with its plan, keeping it, going back.

import { operate } from "./dialog.js";
import { h, setText } from "./dom.js";
import { clock, plural, words } from "./format.js";
import { known } from "./known.js";
import { change } from "./server.js";

const GO_BACK = {
  name: "rollback_after",
  label: "Go back by itself",
  never: "never: keep it at once",
  lengths: [["30s", "after 30 seconds, unless confirmed"], ["2m", "after 2 minutes, unless confirmed"], ["10m", "after 10 minutes, unless confirmed"]],
};
const ORDER = ["conflict", "removed", "changed", "added"];

async function showPlan(area, allow) {
  area.replaceChildren(h("p", { class: "quiet" }, "Reading the file …"));
  let plan;
  try {
    plan = await change("/api/plan");
  } catch (error) {
    area.replaceChildren();
    throw error;
  }
  const { differences, warnings, sessions, source } = plan;
  const items = differences
    .toSorted((a, b) => ORDER.indexOf(a.change) - ORDER.indexOf(b.change))
    .map(({ what, name, change: kind, text, sessions: its, needs_restart: later }) =>
      h(
        "li",
        { "data-change": kind },
        h("span", { class: "sign" }, { added: "+", removed: "−", changed: "~", conflict: "!" }[kind] ?? "~"),
        h("div", {}, h("b", {}, `${what} ${name}`), " ", h("span", { class: "unseen" }, kind), h("span", { class: "quiet" }, text), ...notes(its, later)),
      ),
    );
  const sum = differences.length ? `${plural(differences.length, "difference")}; ${sessions ? `${plural(sessions, "session")} would drain.` : "no session is touched."}` : "The file says what is in force: nothing would change.";
  area.replaceChildren(
    h("p", {}, sum),
    h("ul", { class: "plan" }, ...items),
    ...warnings.map((text) => h("p", { class: "warning" }, text)),
    h("p", { class: "quiet small" }, source),
  );
  allow(true, differences.length ? "Reload" : "Reload all the same");
}

const notes = (sessions, later) =>
  [sessions ? plural(sessions, "session") : "", later ? "at the next start or upgrade" : ""].filter(Boolean).map((text) => h("span", { class: "tag" }, text));

export const reload = () =>
  operate({
    title: "Reload the file?",
    says: () => ["It is applied whole or not at all. Sessions that stand go on."],
    prepare: showPlan,
    length: GO_BACK,
    button: "Reload",
    path: "/api/reload",
    body: ({ rollback_after: after }) => ({ rollback_after: after }),
    done: () => "The file is in force.",
    after: known.changed,
  });

export const confirm = () =>
  operate({
    title: "Keep the new configuration?",
    says: () => ["It stays in force; going back by itself is called off."],
    button: "Keep it",
    path: "/api/reload/confirm",
    body: () => ({}),
    done: () => "The new configuration stays.",
    after: known.changed,
  });

export const rollback = () =>
  operate({
    title: "Go back to the configuration before?",
    says: () => ["What was in force before the last reload is in force again. Sessions that stand go on; the file itself is not touched."],
    button: "Go back",
    danger: true,
    path: "/api/reload/rollback",
    body: () => ({}),
    done: () => "The former configuration is in force again.",
    after: known.changed,
  });

const OUTCOMES = { applied: "in force", refused: "refused", confirmed: "confirmed", rolled_back: "gone back" };

/** One line about the last reload, with its buttons. Returns update(state). */
export function reloadLine(parent, buttons) {
  const text = h("span", { class: "quiet" });
  const back = h("button", { type: "button", class: "plain", onclick: rollback }, "Go back …");
  buttons.append(back, h("button", { type: "button", class: "plain", onclick: reload }, "Reload …"));
  parent.append(text);
  return (state) => {
    back.hidden = !["applied", "confirmed"].includes(state?.outcome);
    if (!state || !state.at || state.outcome === "none") setText(text, "Not reloaded since the start.");
    else setText(text, `Last reload ${clock(state.at)}: ${[OUTCOMES[state.outcome] ?? words(state.outcome), state.detail].filter(Boolean).join(": ")}`);
  };
}
