// Talking to the balancer: questions, changes, the stream; the token goes along with each of them.

const TIMEOUT_MS = 5000;
const CHANGE_TIMEOUT_MS = 60000; // a plan resolves names, an upgrade starts a program

/** The token was missing or wrong. */
export class TokenNeeded extends Error {}

/** The balancer refused; the message says why, in words; `problems` are the single mistakes. */
export class Refusal extends Error {
  constructor(message, problems, status) {
    super(message);
    this.problems = problems;
    this.status = status;
  }
}

let token = sessionStorage.getItem("token") ?? ""; // this tab only, gone with it

export function setToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

async function request(path, options, timeout = TIMEOUT_MS) {
  const headers = { Accept: "application/json", ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const signal = options.signal ?? AbortSignal.timeout(timeout);
  const answer = await fetch(path, { cache: "no-store", ...options, headers, signal });
  if (answer.status === 401) throw new TokenNeeded("A token is needed.");
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const text = await answer.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // not ours, or words alone
  }
  const problems = (Array.isArray(body.problems) ? body.problems : []).map(sentence);
  const words = typeof body.error === "string" ? body.error : typeof body.detail === "string" ? body.detail : "";
  return new Refusal(words || text.slice(0, 300).trim() || `It answered ${answer.status}.`, problems, answer.status);
}

/** A problem is a sentence, or has its parts in fields. */
function sentence(problem) {
  if (typeof problem === "string") return problem;
  const { where, path, message } = problem;
  return [where, path, message ?? JSON.stringify(problem)].filter(Boolean).join(": ");
}

/** Ask for JSON. Returns { body, total }: X-Total-Count where the answer was cut. */
export async function ask(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined);
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  const answer = await request(path + query, {});
  const body = await answer.json();
  return { body, total: Number(answer.headers.get("X-Total-Count") ?? (Array.isArray(body) ? body.length : 0)) };
}

/** Change something; empty fields are left out. Returns what the balancer answered. */
export async function change(path, fields = {}) {
  const body = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "" && value !== undefined));
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await request(path, options, CHANGE_TIMEOUT_MS)).json();
}

/** Open the stream; it is read with getReader() and ended with the signal. */
export async function openStream(signal) {
  const answer = await request("/api/stream", { headers: { Accept: "text/event-stream" }, signal });
  if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new Refusal("no stream", [], 0);
  return answer.body;
}

/** An error as words for people. */
export function inWords(error) {
  if (error instanceof Refusal) return error.message;
  if (error instanceof TokenNeeded) return "The token is missing or no longer right. Close this and give it at the top of the page.";
  if (error.name === "TimeoutError") return "The balancer did not answer in time. Whether it has done it is not known: look before you try again.";
  return "The balancer cannot be reached. Nothing is known to have changed.";
}
