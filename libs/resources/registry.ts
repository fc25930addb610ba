/** The kinds of this installation, by name and by plural; checked once at start. */

import { sql } from 'kysely';
import { printable, RhyzomeError } from '#libs/core';
import type { Database } from '#libs/db';
import { knowVerbs } from './grantable.js';
import type { KindDefinition } from './kind.js';
import { knowRefresh } from './refresh.js';

export class KindRegistry {
  private readonly byName = new Map<string, KindDefinition>();
  private readonly byPlural = new Map<string, KindDefinition>();

  /** Throws if two kinds share a name or a plural. */
  constructor(kinds: readonly KindDefinition[]) {
    for (const kind of kinds) {
      if (this.byName.has(kind.name) || this.byPlural.has(kind.plural)) {
        throw new Error(`Two kinds are called ${kind.name} or ${kind.plural}.`);
      }
      this.byName.set(kind.name, kind);
      this.byPlural.set(kind.plural, kind);
      knowRefresh(kind);
      knowVerbs(kind);
    }
  }

  get all(): KindDefinition[] {
    return [...this.byName.values()];
  }

  get names(): string[] {
    return [...this.byName.keys()];
  }

  find(name: string): KindDefinition | undefined {
    return this.byName.get(name);
  }

  /** Throws RhyzomeError `invalid` for a kind that is none. */
  get(name: string): KindDefinition {
    const kind = this.byName.get(name);
    if (kind) return kind;
    throw new RhyzomeError('invalid', `“${printable(name)}” is not a kind.`, {
      errors: [{ parameter: 'kind', code: 'invalid_value', message: `must be one of ${this.names.join(', ')}` }],
    });
  }

  /** Throws if a kind's table or one of its columns is missing: the database is not migrated. */
  async assertTables(db: Database): Promise<void> {
    for (const kind of this.all) {
      const columns = sql.join(kind.columns.map((column) => sql.ref(`k.${column}`)));
      try {
        await db.unscopedRead(sql`select ${columns} from ${sql.table(kind.table)} k where false`.compile(db.builder));
      } catch (error) {
        if (error instanceof RhyzomeError) throw error;
        throw new Error(`Kind ${kind.name}: ${(error as Error).message}. Run “rhyzome db migrate”.`, { cause: error });
      }
    }
  }
}
