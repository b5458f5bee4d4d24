// The operator's page: follows the balancer and hands what it says to the parts of the page, each a module of its own.

import { inTurn } from "./asking.js";
import { changes } from "./changes.js";
import { setAttribute, setText } from "./dom.js";
import { events } from "./events.js";
import { count, span } from "./format.js";
import { showHeadline } from "./headline.js";
import { History } from "./history.js";
import { known } from "./known.js";
import { live } from "./live.js";
import { notices } from "./notices.js";
import { pools } from "./pools.js";
import { reload, reloadLine } from "./reload.js";
import { ask, setToken, TokenNeeded } from "./server.js";
import { sessions } from "./sessions.js";
import { askAbout, clients, endings, listeners } from "./tables.js";
import { vitals } from "./vitals.js";

const CALM_MS = 2000; // between two questions for sessions and clients, which cost the workers a look
const SLOW_MS = 10000; // between two questions for what events announce anyway
const QUIET_MS = 2500; // without a new status nothing changes but the time
const part = (name) => document.getElementById(name);

const history = new History();
let clientsWanted = 10;
const show = {
  notices: notices(part("notices")),
  vitals: vitals(part("vitals")),
  pools: pools(part("pools")),
  sessions: sessions(part("sessions"), part("sessions-head")),
  events: events(part("events")),
  listeners: listeners(part("listeners")),
  clients: clients(part("clients"), (rows) => {
    clientsWanted = rows;
    refreshClients();
  }),
  endings: endings(part("ends")),
  changes: changes(part("changes")),
  reload: reloadLine(part("reload-line"), part("reload-buttons")),
};
askAbout(part("clients-head"));
let answeredAt = 0;
let heardAt = 0;
let overrides = [];
let state = null;
let lost = false;

function about(status) {
  const workers = status.workers ? `${status.workers} ${status.workers === 1 ? "worker" : "workers"}` : "";
  const restarts = status.worker_restarts ? `${status.worker_restarts} restarted` : "";
  return [`${status.engine} engine`, workers, restarts, `up ${span(status.now - status.started_at)}`, status.version]
    .filter(Boolean)
    .join("  ·  ");
}

function showStatus(status) {
  if (lost || !known.status || status.started_at !== known.status.started_at) {
    if (known.status && status.started_at !== known.status.started_at) show.events.reset();
    lost = false;
    refreshSoon();
  }
  answeredAt = performance.now();
  known.status = status;
  showHeadline(status.headline);
  setText(part("about"), about(status));
  setText(part("nav-sessions"), count(status.listeners.reduce((sum, { counters }) => sum + counters.sessions, 0)));
  show.vitals(history, status.now);
  show.pools(status, history);
  show.listeners(status.listeners);
  show.endings(status.ends);
  show.sessions.update(status);
  showChanges();
  part("content").hidden = false;
  part("nav").hidden = false;
  part("reload").hidden = false;
  part("token").hidden = true;
  part("retry").hidden = true;
  setAttribute(part("content"), "data-stale", false);
}

/** The balancer sends a status when it has changed; time goes on in between. */
const nowThere = () => known.status.now + (performance.now() - answeredAt) / 1000;

function showChanges() {
  show.notices({ state, overrides, now: nowThere() });
  show.changes(overrides, nowThere());
  setText(part("nav-changes"), overrides.length || "");
}

const refreshClients = inTurn(async () => {
  const { body, total } = await ask("/api/clients", { limit: clientsWanted });
  known.clients = body;
  show.clients(body, total);
  setText(part("nav-clients"), count(total));
});

const refreshChanges = inTurn(async () => {
  const [laid, last] = await Promise.all([ask("/api/overrides"), ask("/api/reload")]);
  overrides = laid.body;
  state = last.body;
  known.overrides = new Map(overrides.map((override) => [override.id, override]));
  show.reload(state);
  showChanges();
  show.pools(known.status, history);
});

// What fails here fails in the stream too, which says so; the next round tries again.
const quietly = (question) => question().catch(() => {});
let soon = 0;

function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => {
    quietly(refreshChanges);
    quietly(refreshClients);
    show.sessions.refresh();
  }, 100);
}
known.changed = refreshSoon;

/** Ask again and again, but only for what somebody looks at. */
function everySoOften(ms, node, question) {
  let inSight = !node;
  if (node) new IntersectionObserver(([{ isIntersecting }]) => (inSight = isIntersecting), { rootMargin: "100px" }).observe(node);
  setInterval(() => known.status && inSight && !document.hidden && !lost && quietly(question), ms);
}
everySoOften(CALM_MS, part("sessions"), () => show.sessions.refresh());
everySoOften(CALM_MS, part("clients"), refreshClients);
everySoOften(SLOW_MS, null, refreshChanges);
everySoOften(1000, null, async () => {
  if (performance.now() - heardAt < QUIET_MS) return;
  showStatus({ ...known.status, now: nowThere() });
});

const tryNow = live({
  status(status) {
    heardAt = performance.now();
    history.record(status);
    showStatus(status);
  },
  events(fresh) {
    show.events.add(fresh);
    refreshSoon();
  },
  lost(error, secondsToNextTry) {
    lost = true;
    setAttribute(part("content"), "data-stale", true);
    if (error instanceof TokenNeeded) {
      part("token").hidden = false;
      part("token-field").focus();
      showHeadline({ level: "unknown", title: "A token is needed", detail: "It stands in the file that the configuration names." });
      return;
    }
    part("retry").hidden = false;
    const ago = heardAt ? `Its last answer came ${span((performance.now() - heardAt) / 1000)} ago. ` : "";
    showHeadline({ level: "unknown", title: "The balancer does not answer", detail: `${ago}Next try in ${secondsToNextTry} s.` });
  },
});

part("retry").addEventListener("click", tryNow);
part("reload").addEventListener("click", reload);
part("token").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(part("token-field").value.trim());
  part("token-field").value = "";
  tryNow();
});
