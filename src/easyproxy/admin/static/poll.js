// Asking the balancer again and again: every second while it answers, ever more rarely while it does not.

const INTERVAL_MS = 1000;
const HIDDEN_INTERVAL_MS = 5000;
const TIMEOUT_MS = 5000;
const LONGEST_BACKOFF_MS = 15000;

/** The token was missing or wrong. */
export class TokenNeeded extends Error {}

let token = sessionStorage.getItem("token") ?? "";

export function setToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

/** Ask for JSON. Returns { body, total }: X-Total-Count where the answer was cut. */
export async function ask(path) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.status === 401) throw new TokenNeeded();
  if (!answer.ok) throw new Error(`it answered ${answer.status}`);
  return { body: await answer.json(), total: Number(answer.headers.get("X-Total-Count") ?? 0) };
}

/**
 * Call `tick()` for ever. While it throws, `onFailure(error, secondsToNextTry)` runs every second, and the pause
 * doubles. Returns a function that makes the next try come at once.
 */
export function poll(tick, onFailure) {
  let failures = 0;
  let wake = () => {};
  const pause = (ms) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve("woken");
      };
    });

  async function waitAfter(error) {
    let left = Math.min(INTERVAL_MS * 2 ** (failures - 1), LONGEST_BACKOFF_MS);
    while (left > 0) {
      onFailure(error, Math.ceil(left / 1000));
      if ((await pause(1000)) === "woken") return;
      left -= 1000;
    }
  }

  async function run() {
    for (;;) {
      try {
        await tick();
        failures = 0;
        await pause(document.hidden ? HIDDEN_INTERVAL_MS : INTERVAL_MS);
      } catch (error) {
        failures += 1;
        await waitAfter(error);
      }
    }
  }

  const now = () => wake();
  addEventListener("online", now);
  document.addEventListener("visibilitychange", () => document.hidden || now());
  run();
  return now;
}
