/** Whose a host name is, in memory; and that a domain has one tenant, on a real database. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { addDomain, DomainCache, type DomainRow, listDomains, removeDomain } from './domains.js';
import { deleteTenant } from './tenants.js';

describe('a host', () => {
  test('below the installation’s domain is the tenant’s of its first label, or nobody’s; others go by rows', async () => {
    const rows = [{ domain: 'api.acme.example', tenantId: 'acme' }];
    const cache = new DomainCache(async () => rows, 'api.example.org');
    await cache.refresh();
    expect(cache.ownerOf('api.acme.example')).toEqual({ tenantId: 'acme' });
    expect(cache.ownerOf('acme.api.example.org')).toEqual({ tenantId: 'acme' });
    // Whether there is such a tenant makes no difference.
    expect(cache.ownerOf('absent.api.example.org')).toEqual({ tenantId: 'absent' });
    for (const host of ['a.b.api.example.org', 'no-id.api.example.org', '_.api.example.org'])
      expect(cache.ownerOf(host), host).toEqual({ tenantId: null });
    for (const host of ['api.example.org', 'example.org', 'xapi.example.org', '127.0.0.1', 'localhost', 'acme.example'])
      expect(cache.ownerOf(host), host).toBeUndefined();
    const plain = new DomainCache(async () => rows);
    expect(plain.ownerOf('acme.api.example.org')).toBeUndefined();
  });

  test('stays known when it cannot be read again, and an older read does not undo a newer one', async () => {
    const reads: ((rows: DomainRow[] | Error) => void)[] = [];
    const cache = new DomainCache(
      () => new Promise((done, fail) => reads.push((told) => (told instanceof Error ? fail(told) : done(told)))),
    );
    const row = (tenantId: string) => [{ domain: 'a.example', tenantId }];
    const [first, second] = [cache.refresh(), cache.refresh()];
    reads[1]!(row('new'));
    await second;
    reads[0]!(row('old'));
    await first;
    expect(cache.ownerOf('a.example')).toEqual({ tenantId: 'new' });
    const third = cache.refresh();
    reads[2]!(new Error('away'));
    await expect(third).rejects.toThrow('away');
    expect(cache.ownerOf('a.example')).toEqual({ tenantId: 'new' });
  });
});

describe('a domain', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await testDatabase();
    for (const id of ['acme', 'globex'])
      await sql`insert into tenant (id, display_name) values (${id}, ${id})`.execute(database.db.operator);
  });
  afterAll(() => database?.close());

  const hosts = { domain: 'api.example.org', publicUrl: 'https://Rhyzome.example:8443' };
  const add = (tenantId: string, text: string) =>
    database.db.operatorTransaction((tx) => addDomain(tx, tenantId, text, hosts));
  const remove = (tenantId: string, text: string) =>
    database.db.operatorTransaction((tx) => removeDomain(tx, tenantId, text));
  const all = async (tenantId?: string) =>
    (await database.db.operatorTransaction((tx) => listDomains(tx, tenantId))).map(({ domain }) => domain);

  test('has one tenant, however it is written, and is free again when it was removed', async () => {
    expect(await add('acme', 'API.Acme.Example.')).toMatchObject({
      isNew: true,
      domain: { domain: 'api.acme.example' },
    });
    expect(await add('acme', 'api.acme.example:443')).toMatchObject({ isNew: false });
    await expect(add('globex', 'Api.acme.example')).rejects.toMatchObject({ code: 'already_exists' });
    await expect(remove('globex', 'api.acme.example')).rejects.toMatchObject({ code: 'not_found' });
    expect(await all('acme')).toEqual(['api.acme.example']);
    expect(await all('globex')).toEqual([]);
    expect(await remove('acme', 'API.acme.example')).toBe('api.acme.example');
    await expect(remove('acme', 'api.acme.example')).rejects.toMatchObject({ code: 'not_found' });
    expect(await add('globex', 'api.acme.example')).toMatchObject({ isNew: true });
    await remove('globex', 'api.acme.example');
  });

  test('is one of two tenants’ that ask for it at once', async () => {
    const outcomes = await Promise.allSettled(['acme', 'globex'].map((id) => add(id, 'race.example')));
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(await all()).toEqual(['race.example']);
    for (const id of await all('acme')) await remove('acme', id);
    for (const id of await all('globex')) await remove('globex', id);
  });

  test('is refused where it is none, the installation’s, too much, or of a tenant that is not there', async () => {
    for (const text of ['', 'localhost', '10.0.0.1', '*.acme.example', 'https://acme.example'])
      await expect(add('acme', text), text).rejects.toMatchObject({ code: 'invalid' });
    for (const text of ['api.example.org', 'globex.api.example.org', 'rhyzome.example'])
      await expect(add('acme', text), text).rejects.toMatchObject({ code: 'conflict' });
    await expect(add('system', 'api.acme.example')).rejects.toMatchObject({ code: 'conflict' });
    await expect(add('nobody', 'api.acme.example')).rejects.toMatchObject({ code: 'not_found' });
    await expect(all('nobody')).rejects.toMatchObject({ code: 'not_found' });
    for (let i = 0; i < 16; i++) await add('acme', `d${i}.acme.example`);
    await expect(add('acme', 'd16.acme.example')).rejects.toMatchObject({ code: 'conflict' });
    expect(await add('acme', 'd15.acme.example')).toMatchObject({ isNew: false });
  });

  test('goes with its tenant; the servers see all of them only by the directory', async () => {
    await database.db.operatorTransaction((tx) => deleteTenant(tx, 'acme'));
    expect(await all()).toEqual([]);
    await add('globex', 'api.globex.example');
    const query = sql<DomainRow>`select domain, tenant_id as "tenantId" from domain_directory()`;
    expect(await database.db.unscopedRead(query.compile(database.db.builder))).toEqual([
      { domain: 'api.globex.example', tenantId: 'globex' },
    ]);
    const table = sql`select * from tenant_domain`.compile(database.db.builder);
    await expect(database.db.unscopedRead(table)).rejects.toThrow();
  });
});
