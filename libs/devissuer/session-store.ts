/**
 * Where a development realm keeps codes, sessions and refresh tokens: in memory, bounded, gone with the process.
 * (oidc-provider's own memory adapter prints warnings at every start.)
 */
import type { Adapter, AdapterPayload } from 'oidc-provider';

interface Entry {
  payload: AdapterPayload;
  expiresAt: number;
}

/** One store serves all models of a realm; oidc-provider asks for an adapter per model name. */
export class SessionStore {
  private readonly entries = new Map<string, Entry>();

  constructor(private readonly maxEntries = 5000) {}

  /** The adapter of one model (see oidc-provider's example/my_adapter.js for what each method means). */
  adapter(model: string): Adapter {
    const keyOf = (id: string) => `${model}:${id}`;
    return {
      upsert: async (id, payload, expiresIn) => this.put(keyOf(id), payload, expiresIn),
      find: async (id) => this.get(keyOf(id)),
      findByUid: async (uid) => this.search(model, (payload) => payload.uid === uid),
      findByUserCode: async (code) => this.search(model, (payload) => payload.userCode === code),
      destroy: async (id) => void this.entries.delete(keyOf(id)),
      consume: async (id) => {
        const payload = this.get(keyOf(id));
        if (payload) payload.consumed = Math.floor(Date.now() / 1000);
      },
      revokeByGrantId: async (grantId) => {
        for (const [key, entry] of this.entries) if (entry.payload.grantId === grantId) this.entries.delete(key);
      },
    };
  }

  /** Ends all that somebody has open: logins, grants and refresh tokens; null: everybody's. */
  endSessions(accountId: string | null): void {
    for (const [key, { payload }] of this.entries) {
      if (payload.accountId !== undefined && (accountId === null || payload.accountId === accountId))
        this.entries.delete(key);
    }
  }

  private put(key: string, payload: AdapterPayload, expiresIn: number | undefined): void {
    this.entries.delete(key);
    this.entries.set(key, { payload, expiresAt: expiresIn ? Date.now() + expiresIn * 1000 : Number.POSITIVE_INFINITY });
    if (this.entries.size <= this.maxEntries) return;
    const oldest = this.entries.keys().next().value;
    if (oldest !== undefined) this.entries.delete(oldest);
  }

  private get(key: string): AdapterPayload | undefined {
    const entry = this.entries.get(key);
    if (!entry) return undefined;
    if (entry.expiresAt > Date.now()) return entry.payload;
    this.entries.delete(key);
    return undefined;
  }

  private search(model: string, matches: (payload: AdapterPayload) => boolean): AdapterPayload | undefined {
    for (const [key, entry] of this.entries) {
      if (key.startsWith(`${model}:`) && entry.expiresAt > Date.now() && matches(entry.payload)) return entry.payload;
    }
    return undefined;
  }
}
