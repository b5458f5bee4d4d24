// What the last two minutes looked like. The balancer keeps no history; this page does, in memory.

export const WINDOW_S = 120;

/** Values over time: pairs [seconds, value], the oldest first, no older than the window. */
class Series {
  points = [];

  push(at, value) {
    this.points.push([at, value]);
    while (this.points.length > 2 && this.points[1][0] < at - WINDOW_S) this.points.shift();
  }

  get last() {
    return this.points.length ? this.points[this.points.length - 1][1] : 0;
  }

  get max() {
    return this.points.reduce((most, [, value]) => Math.max(most, value), 0);
  }
}

/** Series of the whole and of each backend, fed with one status after the other. */
export class History {
  constructor() {
    this.reset(0);
  }

  reset(startedAt) {
    this.startedAt = startedAt;
    this.before = null;
    this.whole = { sessions: new Series(), fresh: new Series(), toClients: new Series(), fromClients: new Series() };
    this.backends = new Map();
  }

  of(id) {
    if (!this.backends.has(id)) this.backends.set(id, { sessions: new Series(), traffic: new Series() });
    return this.backends.get(id);
  }

  record(status) {
    if (status.started_at !== this.startedAt) this.reset(status.started_at); // another process: counters began anew
    const backends = status.pools.flatMap((pool) => pool.backends);
    const now = {
      at: status.now,
      fresh: sum(status.listeners, (listener) => listener.counters.accepted),
      toClients: sum(backends, (backend) => backend.counters.bytes_from_backend),
      fromClients: sum(backends, (backend) => backend.counters.bytes_from_client),
      traffic: new Map(backends.map((backend) => [backend.id, transferred(backend)])),
    };
    const before = this.before;
    const seconds = before ? now.at - before.at : 0;
    if (before && seconds <= 0) return; // the same moment again
    const perSecond = (later, earlier) => (before ? Math.max(0, later - earlier) / seconds : 0);
    this.whole.sessions.push(now.at, sum(status.listeners, (listener) => listener.counters.sessions));
    for (const name of ["fresh", "toClients", "fromClients"]) {
      if (before) this.whole[name].push(now.at, perSecond(now[name], before[name]));
    }
    for (const backend of backends) {
      const series = this.of(backend.id);
      series.sessions.push(now.at, backend.counters.sessions);
      if (before?.traffic.has(backend.id)) {
        series.traffic.push(now.at, perSecond(now.traffic.get(backend.id), before.traffic.get(backend.id)));
      }
    }
    for (const id of this.backends.keys()) if (!now.traffic.has(id)) this.backends.delete(id);
    this.before = now;
  }
}

const sum = (items, valueOf) => items.reduce((total, item) => total + valueOf(item), 0);
const transferred = (backend) => backend.counters.bytes_from_client + backend.counters.bytes_from_backend;
