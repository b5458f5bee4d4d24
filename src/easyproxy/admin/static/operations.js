// What an operator can do, and what each of them says before it is done.

import { operate } from "./dialog.js";
import { count, plural, span } from "./format.js";
import { known } from "./known.js";

const sessionsOf = (backend) => backend.counters.sessions;
const LENGTH = {};
const DEADLINE = { name: "deadline", label: "Close what is left after", placeholder: "5m", hint: "By default the pool's own deadline." };

/** What it means for the clients of the pool when this backend gets no new sessions. */
function remaining(id) {
  const { pool, backend } = known.backend(id);
  if (!backend) return "It is not there any more.";
  const others = pool.backends.filter((other) => other.id !== id && other.state === "ready");
  if (!others.length) return `It is the last ready backend of ${pool.name}: new clients will be turned away.`;
  return `New sessions of ${pool.name} go to ${others.length === 1 ? others[0].name : `${count(others.length)} other backends`}.`;
}

/** What becomes of its sessions: `deadline` is what was typed, else the pool's own holds. */
function live(id, { deadline } = {}) {
  const { pool, backend } = known.backend(id);
  const sessions = backend ? sessionsOf(backend) : 0;
  if (!sessions) return "It has no sessions now.";
  const one = sessions === 1;
  const end = pool.drain === "between_transactions" ? `${one ? "ends" : "each end"} between two transactions` : one ? "goes on until it ends" : "go on until they end";
  const limit = deadline || (pool.drain_deadline_s ? span(pool.drain_deadline_s) : "");
  return `Its ${one ? "one session" : plural(sessions, "session")} ${end}${limit ? `; what is left after ${limit} is closed` : ""}.`;
}

export const drain = ({ id, name }) =>
  operate({
    title: `Drain ${name}?`,
    says: (values) => [`It gets no new sessions; probes go on. ${live(id, values)}`, remaining(id)],
    length: LENGTH,
    further: [DEADLINE],
    button: "Drain",
    path: "/api/drain",
    body: ({ ttl, deadline }) => ({ backend: id, ttl, deadline }),
    done: () => `${name} gets no new sessions.`,
    after: known.changed,
  });

export const maintenance = ({ id, name }) =>
  operate({
    title: `Put ${name} into maintenance?`,
    says: (values) => [`It gets no new sessions and no probes. ${live(id, values)}`, remaining(id)],
    length: LENGTH,
    further: [DEADLINE],
    button: "Put into maintenance",
    path: "/api/maintenance",
    body: ({ ttl, deadline }) => ({ backend: id, ttl, deadline }),
    done: () => `${name} is in maintenance.`,
    after: known.changed,
  });

export const ready = ({ id, name }) =>
  operate({
    title: `Make ${name} ready?`,
    says: () => ["Drain and maintenance end. It gets new sessions as soon as its probes allow."],
    button: "Make ready",
    path: "/api/ready",
    body: () => ({ backend: id }),
    done: () => `${name} takes new sessions again.`,
    after: known.changed,
  });

export const weight = ({ id, name, weight: now }) =>
  operate({
    title: `Weight of ${name}`,
    says: () => [`Its share of new sessions among the backends of its pool; now ${now}. Sessions that stand are not moved.`],
    fields: [{ name: "weight", label: "Weight", type: "number", min: 1, max: 256, step: 1, value: now, required: true, hint: "1 to 256" }],
    length: LENGTH,
    button: "Set weight",
    path: "/api/weight",
    body: ({ weight: value, ttl }) => ({ backend: id, weight: Number(value), ttl }),
    done: () => `${name} has another weight.`,
    after: known.changed,
  });

export const addBackend = (pool) =>
  operate({
    title: `Add a backend to ${pool}`,
    says: () => ["It is probed first and gets sessions when it is ready. The file stays as it is; the change outlives a restart."],
    fields: [
      { name: "address", label: "Address", required: true, placeholder: "10.0.0.7:5432", hint: "host:port, [IPv6]:port or unix:/path" },
      { name: "name", label: "Name", placeholder: "by default the address" },
      { name: "weight", label: "Weight", type: "number", min: 1, max: 256, step: 1, value: 1 },
    ],
    length: LENGTH,
    button: "Add",
    path: "/api/backends/add",
    body: ({ address, name, weight: value, ttl }) => ({
      pool,
      backend: { address, ...(name && { name }), ...(value && { weight: Number(value) }) },
      ttl,
    }),
    done: () => `${pool} has a new backend.`,
    after: known.changed,
  });

export const removeBackend = ({ id, name }) =>
  operate({
    title: `Remove ${name}?`,
    says: () => [`It leaves its pool. ${live(id)} The file stays as it is; the change outlives a restart and can be taken back under Configuration.`, remaining(id)],
    length: LENGTH,
    button: "Remove",
    danger: true,
    path: "/api/backends/remove",
    body: ({ ttl }) => ({ backend: id, ttl }),
    done: () => `${name} is removed.`,
    after: known.changed,
  });

function close(title, says, where, what) {
  operate({
    title,
    says,
    button: "Close",
    danger: true,
    path: "/api/close",
    body: () => where,
    done: (answer) => `${plural(answer?.closed ?? (Number(answer) || 0), "session")} closed: ${what}.`,
    after: known.changed,
  });
}

const ABRUPT = "Both sides see the connection break; what is under way is lost.";

export const closeSession = ({ id, client, backend }) =>
  close("Close this session?", () => [`${client} to ${backend || "no backend yet"}. ${ABRUPT}`], { id, client }, client); // ids begin anew with the balancer

export const closeOfClient = ({ address }) =>
  close(
    `Close all sessions of ${address}?`,
    () => [`${plural(known.clientSessions(address), "session")} now. ${ABRUPT} The client may connect again at once.`],
    { client: address },
    address,
  );

export const closeOfBackend = ({ id, name }) =>
  close(
    `Close all sessions of ${name}?`,
    () => {
      const { backend } = known.backend(id);
      const more = backend?.state === "ready" ? " It is ready: clients that connect again may come back to it. Drain it first to empty it." : "";
      return [`${plural(backend ? sessionsOf(backend) : 0, "session")} now. ${ABRUPT}${more}`];
    },
    { backend: id },
    name,
  );

export const forget = (override, words) =>
  operate({
    title: "Forget this change?",
    says: () => [`${override.backend}: ${words}. From then on the file alone decides.`, ...(override.conflict ? [override.conflict] : [])],
    button: "Forget",
    path: "/api/overrides/forget",
    body: () => ({ id: override.id }),
    done: () => `${override.backend}: the file decides again.`,
    after: known.changed,
  });

/** What can be done with a backend in its present state, for its menu. */
export function actionsOf(backend, explain) {
  const held = ["draining", "maintenance"].includes(backend.state);
  const is = (state) => backend.state === state;
  return [
    { text: "Explain", act: explain },
    held && { text: "Make ready …", act: () => ready(backend) },
    !is("draining") && { text: "Drain …", act: () => drain(backend) },
    !is("maintenance") && { text: "Maintenance …", act: () => maintenance(backend) },
    { text: "Weight …", act: () => weight(backend) },
    { text: "Close its sessions …", act: () => closeOfBackend(backend), danger: true },
    { text: "Remove …", act: () => removeBackend(backend), danger: true },
  ].filter(Boolean);
}
