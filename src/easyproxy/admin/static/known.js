// What the page knows now, for the parts that need more than their own: dialogs that say how many sessions, names.

export const known = {
  status: null,
  overrides: new Map(), // by id
  clients: [],

  /** Called after a change from this page; the page then asks for what may be different. */
  changed: () => {},

  /** The backend with this id, and its pool; an empty object when there is none. */
  backend(id) {
    for (const pool of known.status?.pools ?? []) {
      const backend = pool.backends.find((one) => one.id === id);
      if (backend) return { pool, backend };
    }
    return {};
  },

  clientSessions: (address) => known.clients.find((client) => client.address === address)?.sessions ?? 0,
};
