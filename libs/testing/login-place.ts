/** A tenant whose people Rhyzome keeps, as tests of kinds need one: its place is in memory. */
import { sql } from 'kysely';
import { newId } from '#libs/core';
import { MemoryIdentity, type MemoryPlace, provideIdentity } from '#libs/identity';
import type { Platform } from './platform.js';

let memory: MemoryIdentity | undefined;

/** The identity provider of this process, in memory. */
export function memoryIdentity(): MemoryIdentity {
  memory ??= new MemoryIdentity();
  provideIdentity(memory);
  return memory;
}

/** Gives the tenant a place of its own there; done again, it stays the same. */
export async function giveLoginPlace(platform: Pick<Platform, 'db'>, tenantId: string): Promise<void> {
  const place = { tenantId, mode: 'realm' as const, displayName: tenantId };
  const { issuer } = await memoryIdentity().putPlace(place, []);
  await platform.db.operatorTransaction(async (tx) => {
    const id = newId();
    const made = await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
      values (${tenantId}, ${id}, 'realm', 'login', 'ready', 'admin:test', 1)
      on conflict (tenant_id, kind, name) do nothing returning id`.execute(tx);
    if (made.rows.length > 0)
      await sql`insert into realm (tenant_id, id, mode, place_mode, issuer, open)
        values (${tenantId}, ${id}, 'realm', 'realm', ${issuer}, true)`.execute(tx);
  });
}

/** What stands in the tenant's place. */
export function loginPlaceOf(tenantId: string): MemoryPlace {
  const place = memoryIdentity().placeOf(tenantId);
  if (!place) throw new Error(`${tenantId} has no place at the identity provider`);
  return place;
}
