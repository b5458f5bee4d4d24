// The status page: asks for /api/status every second and shows it. Each part of the page is a module of its own.

import { setAttribute, setText } from "./dom.js";
import { span } from "./format.js";
import { showHeadline } from "./headline.js";
import { History } from "./history.js";
import { ask, poll, setToken, TokenNeeded } from "./poll.js";
import { pools } from "./pools.js";
import { clients, endings, listeners } from "./tables.js";
import { vitals } from "./vitals.js";

const CLIENTS_SHOWN = 10;
const part = (name) => document.getElementById(name);

const history = new History();
const show = {
  vitals: vitals(part("vitals")),
  pools: pools(part("pools")),
  listeners: listeners(part("listeners")),
  clients: clients(part("clients")),
  endings: endings(part("ends")),
};
let answeredAt = 0;

function about(status) {
  const workers = status.workers ? `${status.workers} ${status.workers === 1 ? "worker" : "workers"}` : "";
  const restarts = status.worker_restarts ? `${status.worker_restarts} restarted` : "";
  return [`${status.engine} engine`, workers, restarts, `up ${span(status.now - status.started_at)}`, status.version]
    .filter(Boolean)
    .join("  ·  ");
}

async function tick() {
  const [{ body: status }, { body: rows, total }] = await Promise.all([
    ask("/api/status"),
    ask(`/api/clients?limit=${CLIENTS_SHOWN}`),
  ]);
  answeredAt = performance.now();
  history.record(status);
  showHeadline(status.headline);
  setText(part("about"), about(status));
  show.vitals(history, status.now);
  show.pools(status, history);
  show.listeners(status.listeners);
  show.clients(rows, total);
  show.endings(status.ends);
  part("content").hidden = false;
  part("token").hidden = true;
  setAttribute(part("content"), "data-stale", false);
}

function onFailure(error, secondsToNextTry) {
  setAttribute(part("content"), "data-stale", true);
  if (error instanceof TokenNeeded) {
    part("token").hidden = false;
    showHeadline({ level: "unknown", title: "A token is needed", detail: "It stands in the file that the configuration names." });
    return;
  }
  const ago = answeredAt ? `Its last answer came ${span((performance.now() - answeredAt) / 1000)} ago. ` : "";
  showHeadline({
    level: "unknown",
    title: "The balancer does not answer",
    detail: `${ago}Next try in ${secondsToNextTry} s.`,
  });
}

const tryNow = poll(tick, onFailure);
part("token").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(part("token-field").value.trim());
  part("token-field").value = "";
  tryNow();
});
