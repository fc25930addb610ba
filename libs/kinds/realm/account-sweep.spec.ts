/** What stands at the identity provider and is nobody's: found, reported, and removed late and little, on a real database. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { adminActor } from '#libs/auth';
import { newId } from '#libs/core';
import { MemoryIdentity, provideIdentity } from '#libs/identity';
import { group } from '#libs/kinds/group';
import '#libs/kinds/serviceaccount';
import { user } from '#libs/kinds/user';
import type { Caller } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { REALM_NAME, realm, sweepAccounts } from './index.js';

let platform: Platform;
let memory: MemoryIdentity;
let tenantId: string;
let admin: Caller;
const never = new AbortController().signal;

beforeAll(async () => {
  platform = await startPlatform({ kinds: [realm, group, user] });
});
beforeEach(async () => {
  memory = new MemoryIdentity();
  provideIdentity(memory);
  for (const table of ['account_orphan', 'account_removal', 'login_inventory'])
    await sql`delete from ${sql.table(table)}`.execute(operator());
  await sql`update installation set sweep_mode = 'remove', sweep_after = '24 hours'`.execute(operator());
  tenantId = (await platform.tenant()).actor.tenantId;
  admin = { actor: adminActor(tenantId, 'admin:test'), requestId: newId() };
  await platform.done(admin, await platform.pipeline.create(admin, realm, { name: REALM_NAME, mode: 'realm' }));
});
afterEach(() => provideIdentity(undefined));
afterAll(() => platform?.close());

const operator = () => platform.db.operator;
const here = () => ({ tenantId, mode: 'realm' as const, displayName: 'T' });
const person = (name: string) => ({ name, enabled: true, role: null, groups: [] });
/** A look at everything, an hour later. */
async function look(): Promise<void> {
  await sql`update installation set accounts_listed_at = null`.execute(operator());
  await sql`update login_inventory set taken_at = now() - interval '2 hours'`.execute(operator());
  await sweepAccounts(platform.db, never);
}
const age = () => sql`update account_orphan set first_seen_at = now() - interval '25 hours'`.execute(operator());
const word = (name: string) =>
  sql`update account_orphan set approved_at = now(), approved_by = 'admin:me' where name = ${name}`.execute(operator());

async function orphans(): Promise<string[]> {
  const found = await sql<{ text: string }>`
    select kind || ' ' || name || ' ' || looks as text from account_orphan order by 1`.execute(operator());
  return found.rows.map(({ text }) => text);
}
const people = () => [...memory.placeOf(tenantId)!.users.keys()].sort();
const make = async (kind: typeof user | typeof group, name: string) =>
  platform.done(admin, await platform.pipeline.create(admin, kind, { name }));

describe('the sweep at the identity provider', () => {
  it('finds what has no row, and knows everybody who has', async () => {
    await make(user, 'alice');
    await make(group, 'ops');
    await memory.putUser(here(), person('lost'));
    await memory.putGroup(here(), 'losers');
    await memory.putProgram(here(), { name: 'robot', jwks: {} });
    await look();
    await look();
    expect(await orphans()).toEqual(['group losers 2', 'serviceaccount robot 2', 'user lost 2']);
    const alarm = await sql<{ message: string }>`
      select message from alarm where code = 'account_orphans' and cleared_at is null`.execute(operator());
    expect(alarm.rows).toEqual([{ message: expect.stringContaining('has 3 that') }]);
    // Somebody’s after all, and gone: neither was removed here.
    await make(user, 'lost');
    await memory.removeProgram(here(), 'robot');
    await memory.removeGroup(here(), 'losers');
    await look();
    expect(await orphans()).toEqual([]);
    const left = await sql`select from alarm where code = 'account_orphans' and cleared_at is null`.execute(operator());
    expect(left.rows).toEqual([]);
    expect((await sql`select from account_removal`.execute(operator())).rows).toEqual([]);
    expect(people()).toEqual(['alice', 'lost']);
  });

  it('removes late, one of few a day, and what an administrator names; and says so in the audit', async () => {
    for (const name of ['anna', 'bert', 'carl', 'dora']) await memory.putUser(here(), person(name));
    await look();
    await age();
    await sql`update account_orphan set first_seen_at = first_seen_at + make_interval(secs => ascii(name))`.execute(
      operator(),
    );
    expect(people()).toHaveLength(4);
    await look();
    expect(people()).toEqual(['bert', 'carl', 'dora']);
    await look();
    expect(people()).toEqual(['bert', 'carl', 'dora']);
    await word('carl');
    await sweepAccounts(platform.db, never);
    expect(people()).toEqual(['bert', 'dora']);
    await sql`update account_removal set removed_at = now() - interval '25 hours'`.execute(operator());
    await sweepAccounts(platform.db, never);
    expect(people()).toEqual(['dora']);
    const audit = await sql<{ text: string }>`
      select actor || ' ' || kind || ' ' || resource_name || ' ' || (details ->> 'tenant') as text from audit
      where tenant_id = 'system' and action = 'sweep.removed' and details ->> 'tenant' = ${tenantId}
      order by id`.execute(operator());
    const removed = ['admin:upkeep user anna', 'admin:me user carl', 'admin:upkeep user bert'];
    expect(audit.rows.map(({ text }) => text)).toEqual(removed.map((text) => `${text} ${tenantId}`));
  });

  it('removes nothing where it was told to report, nor in a database that was restored', async () => {
    await memory.putUser(here(), person('lost'));
    await look();
    await age();
    await sql`update installation set sweep_mode = 'report'`.execute(operator());
    await look();
    await sql`update installation set sweep_mode = 'remove'`.execute(operator());
    await sql`insert into restoration (id, backup_id, backup_at, restored_by, numbers_from)
      values (${newId()}, ${newId()}, now(), 'x', 1)`.execute(operator());
    await word('lost');
    await look();
    expect(people()).toEqual(['lost']);
    await sql`update restoration set finished_at = now(), finished_by = 'x'`.execute(operator());
    await sweepAccounts(platform.db, never);
    expect(people()).toEqual([]);
  });

  it('removes a whole place only on an administrator’s word', async () => {
    await memory.putPlace({ tenantId: 'gonetenant', mode: 'realm', displayName: 'Gone' }, []);
    await memory.putPlace({ ...here(), mode: 'organization' }, []);
    await look();
    await age();
    await look();
    await look();
    expect(await orphans()).toEqual(['realm login 3', 'realm login 3']);
    expect([...memory.places.keys()].sort()).toEqual(
      [`organization/${tenantId}`, 'realm/gonetenant', `realm/${tenantId}`].sort(),
    );
    await word(REALM_NAME);
    await sweepAccounts(platform.db, never);
    expect([...memory.places.keys()]).toEqual([`realm/${tenantId}`]);
    expect((await sql`select from tenant where id = 'gonetenant'`.execute(operator())).rows).toEqual([]);
    expect((await sql`select from account_removal where kind = 'realm'`.execute(operator())).rows).toHaveLength(2);
  });

  it('lets whoever is made under the name of one that is being removed be made afterwards', async () => {
    await memory.putUser(here(), person('twin'));
    await look();
    await word('twin');
    let removing = () => {};
    const begun = new Promise<void>((done) => {
      removing = done;
    });
    let goOn = () => {};
    const held = new Promise<void>((done) => {
      goOn = done;
    });
    const removeUser = memory.removeUser.bind(memory);
    memory.removeUser = async (place, name) => {
      removing();
      await held;
      await removeUser(place, name);
    };
    const sweeping = sweepAccounts(platform.db, never);
    await begun;
    let isMade = false;
    const making = platform.pipeline.create(admin, user, { name: 'twin' }).finally(() => {
      isMade = true;
    });
    const waiting = async () => (await sql`select from pg_locks where not granted`.execute(operator())).rows.length;
    await expect.poll(waiting, { timeout: 10_000 }).toBeGreaterThan(0);
    expect(isMade).toBe(false);
    goOn();
    await sweeping;
    await platform.done(admin, await making);
    expect(people()).toEqual(['twin']);
  });

  it('begins again what a process died at, and tells of what it had removed', async () => {
    await memory.putUser(here(), person('lost'));
    await look();
    await word('lost');
    memory.dieAt(1, 'after');
    await expect(sweepAccounts(platform.db, never)).rejects.toThrow('after removeUser');
    expect(people()).toEqual([]);
    await look();
    const removals = await sql`select name, approved_by from account_removal`.execute(operator());
    expect(removals.rows).toEqual([{ name: 'lost', approved_by: 'admin:me' }]);
    memory.away = true;
    await expect(look()).rejects.toMatchObject({ code: 'identity_provider_unavailable' });
  });
});
