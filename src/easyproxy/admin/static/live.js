// Staying in touch: the stream while it lasts, asking each second where there is none, ever rarer tries while the
// balancer is away, nothing at all while the tab is hidden.

import { ask, openStream, TokenNeeded } from "./server.js";

const INTERVAL_MS = 1000;
const SILENCE_MS = 3000; // nothing may have changed, or nobody may be there any more: then it is asked
const LONGEST_BACKOFF_MS = 10000;
const MOST_POLLS = 30; // before the stream is tried again

/** The stream was silent, and a question got no answer either. */
class Silent extends Error {}

/** Take whole messages out of what has arrived: [{ event, data }], and what is left. */
export function parse(text) {
  const blocks = text.replaceAll("\r\n", "\n").split("\n\n");
  const rest = blocks.pop();
  const messages = [];
  for (const block of blocks) {
    const message = { event: "message", data: [] };
    for (const line of block.split("\n")) {
      const [, name, value] = /^(event|data): ?(.*)$/.exec(line) ?? [];
      if (name === "event") message.event = value;
      if (name === "data") message.data.push(value);
    }
    if (message.data.length) messages.push({ event: message.event, data: message.data.join("\n") });
  }
  return { messages, rest };
}

/**
 * Follow the balancer for ever. `on` has status(status), events(list), lost(error, secondsToNextTry).
 * Returns a function that makes the next try come at once.
 */
export function live(on) {
  let failures = 0;
  let broken = 0; // streams in a row that broke without having said anything
  let newest = 0; // id of the newest event seen
  let startedAt = 0;
  let wake = () => {};
  let abort = null;

  const pause = (ms) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve("woken");
      };
    });
  const visible = () =>
    document.hidden && new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));

  function take(status) {
    failures = 0;
    if (status.started_at !== startedAt) newest = 0; // another process counts its events anew
    startedAt = status.started_at;
    on.status(status);
  }

  function takeEvents(events) {
    const fresh = events.filter((event) => event.id > newest);
    if (!fresh.length) return;
    newest = fresh[fresh.length - 1].id;
    on.events(fresh);
  }

  async function catchUp() {
    take((await ask("/api/status")).body);
    takeEvents((await ask("/api/events", { after: newest, limit: 200 })).body);
  }

  /** Returns when the tab is hidden or the stream ends; throws when it breaks. */
  async function follow() {
    const own = (abort = new AbortController());
    const alive = () => setTimeout(() => catchUp().then(rearm, () => own.abort(new Silent())), SILENCE_MS);
    const rearm = () => {
      clearTimeout(watchdog);
      if (!own.signal.aborted) watchdog = alive();
    };
    let watchdog = alive();
    try {
      const reader = (await openStream(own.signal)).pipeThrough(new TextDecoderStream()).getReader();
      await catchUp();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        rearm();
        const { messages, rest } = parse(text + value);
        text = rest;
        broken = 0;
        const statuses = messages.filter(({ event }) => event === "status");
        if (statuses.length) take(JSON.parse(statuses[statuses.length - 1].data)); // only the newest counts
        takeEvents(messages.filter(({ event }) => event === "event").map(({ data }) => JSON.parse(data)));
      }
    } finally {
      own.abort();
      clearTimeout(watchdog);
    }
  }

  async function waitAfter(error) {
    let left = Math.min(INTERVAL_MS * 2 ** (failures - 1), LONGEST_BACKOFF_MS);
    while (left > 0 && !document.hidden) {
      on.lost(error, Math.ceil(left / 1000));
      if ((await pause(INTERVAL_MS)) === "woken") return;
      left -= INTERVAL_MS;
    }
  }

  async function run() {
    for (;;) {
      await visible();
      broken += 1;
      const ended = await follow().catch((error) => error); // why it broke, the next question tells
      try {
        if (ended instanceof Silent) throw ended; // it was just asked
        for (let polls = Math.min(2 ** broken, MOST_POLLS); polls > 0 && !document.hidden; polls -= 1) {
          await catchUp();
          await pause(INTERVAL_MS);
        }
      } catch (error) {
        failures += 1;
        if (error instanceof TokenNeeded) {
          on.lost(error, 0);
          await pause(2 ** 30); // until one is given
        } else await waitAfter(error);
      }
    }
  }

  addEventListener("online", () => wake());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) abort?.abort();
    wake();
  });
  run();
  return () => wake();
}
