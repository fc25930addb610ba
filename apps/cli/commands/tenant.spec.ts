/** `rhyzome tenant` on a real database: what it keeps, what it refuses, how it ends, and what stands in the audit. */
import { userInfo } from 'node:os';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
});
afterAll(() => rhyzome?.remove());

const issuer = (realm: string) => `https://id.example/realms/${realm}`;

describe('rhyzome tenant', () => {
  it('makes, shows and lists tenants', async () => {
    const made = await rhyzome.json(
      ...['tenant', 'create', 'acme', '--display-name', 'Acme Ltd', '--billing-key', 'K-1', '--property', 'tier=gold'],
      ...['--issuer', issuer('acme'), '--audience', 'urn:a', '--issuer', issuer('acme2'), '--jwks-uri', issuer('keys')],
    );
    expect(made).toMatchObject({
      id: 'acme',
      displayName: 'Acme Ltd',
      billingKey: 'K-1',
      properties: { tier: 'gold' },
      state: 'active',
      issuers: [
        { issuer: issuer('acme'), audience: 'urn:a', jwksUri: null },
        { issuer: issuer('acme2'), audience: null, jwksUri: issuer('keys') },
      ],
    });
    expect(made.createdAt).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    expect(await rhyzome.json('tenant', 'show', 'acme')).toEqual(made);
    expect(await rhyzome.json('tenant', 'list')).toEqual([made, expect.objectContaining({ id: 'system' })]);
    expect(await rhyzome.ok('tenant', 'list')).toMatch(/^ID +NAME +STATE.*\nacme +Acme Ltd +active +K-1 +https:/);
    expect(await rhyzome.audit('acme')).toEqual([
      expect.objectContaining({ action: 'tenant.create', actor: `admin:${userInfo().username}`, result: 'done' }),
    ]);
  });

  it('changes what is named and nothing else', async () => {
    await rhyzome.ok('tenant', 'create', 'edit', '--property', 'a=1', '--property', 'b=2', '--billing-key', 'K');
    const changed = await rhyzome.json(
      ...[
        'tenant',
        'update',
        'edit',
        '--display-name',
        'New',
        '--unset-property',
        'a',
        '--property',
        'c=3',
        '--suspend',
      ],
    );
    expect(changed).toMatchObject({
      displayName: 'New',
      billingKey: 'K',
      properties: { b: '2', c: '3' },
      state: 'suspended',
    });
    await rhyzome.ok('tenant', 'update', 'edit', '--issuer', issuer('one'), '--clear-billing-key', '--activate');
    await rhyzome.ok('tenant', 'update', 'edit', '--issuer', issuer('two'));
    expect(await rhyzome.json('tenant', 'show', 'edit')).toMatchObject({
      billingKey: null,
      state: 'active',
      issuers: [{ issuer: issuer('two') }],
    });
    await rhyzome.ok('tenant', 'update', 'edit', '--clear-issuers');
    expect((await rhyzome.json('tenant', 'show', 'edit')).issuers).toEqual([]);
    expect((await rhyzome.audit('edit')).map(({ action }) => action)).toEqual([
      'tenant.create',
      ...Array(4).fill('tenant.update'),
    ]);
  });

  it('refuses with a status and a line that say why', async () => {
    await rhyzome.ok('tenant', 'create', 'taken', '--issuer', issuer('taken'));
    const cases: [string[], number, RegExp][] = [
      [['tenant', 'create', 'taken'], 1, /There is a tenant taken already/],
      [['tenant', 'create', 'other', '--issuer', issuer('taken')], 1, /belongs to another tenant/],
      [['tenant', 'create', 'Not-An-Id'], 2, /lower-case letters and digits/],
      [['tenant', 'create', 'other', '--issuer', 'ftp://x'], 2, /http\(s\) URL/],
      [['tenant', 'create', 'other', '--audience', 'x'], 2, /belongs to the --issuer before it/],
      [['tenant', 'create', 'other', '--property', 'novalue'], 2, /key=value/],
      [['tenant', 'create', 'other', '--display-name', ''], 2, /printable/],
      [['tenant', 'update', 'taken'], 2, /Nothing to change/],
      [['tenant', 'update', 'taken', '--suspend', '--activate'], 2, /contradict/],
      [['tenant', 'update', 'nobody', '--suspend'], 3, /no tenant “nobody”/],
      [['tenant', 'update', 'system', '--suspend'], 1, /cannot be suspended/],
      [['tenant', 'show', 'nobody'], 3, /no tenant/],
      [['tenant', 'delete', 'nobody'], 3, /no tenant/],
      [['tenant', 'delete', 'system'], 1, /cannot be deleted/],
      [['tenant', 'bogus'], 2, /unknown command/],
      [['tenant', 'create'], 2, /missing required argument/],
    ];
    for (const [args, status, message] of cases) {
      const outcome = await rhyzome.run(...args);
      expect(outcome, args.join(' ')).toMatchObject({ status, out: '', err: expect.stringMatching(message) });
    }
    // Nothing of a refused create is left.
    expect((await rhyzome.run('tenant', 'show', 'other')).status).toBe(3);
    const json = await rhyzome.run('--json', 'tenant', 'show', 'nobody');
    expect(JSON.parse(json.err)).toMatchObject({ error: { code: 'not_found' } });
  });

  it('deletes a tenant only when it has no resources, and names these', async () => {
    await rhyzome.ok('tenant', 'create', 'full', '--issuer', issuer('full'));
    const resources = Array.from({ length: 23 }, (_, i) => ({
      tenant_id: 'full',
      id: newId(),
      kind: 'network',
      name: `net-${String(i).padStart(2, '0')}`,
      state: 'ready',
      created_by: 'x',
    }));
    await rhyzome.db.operator.insertInto('resource').values(resources).execute();
    const words = await rhyzome.run('tenant', 'delete', 'full');
    expect(words.status).toBe(1);
    expect(words.err).toContain('still has 23 resources');
    expect(words.err).toContain(`network net-19 (${resources[19]!.id})`);
    expect(words.err).not.toContain('net-20');
    expect(words.err).toContain('and 3 more');
    const { error } = JSON.parse((await rhyzome.run('tenant', 'delete', 'full', '--json')).err);
    expect(error).toMatchObject({ code: 'in_use', more: 3 });
    expect(error.blockers).toHaveLength(20);
    expect(error.blockers[0]).toMatchObject({ kind: 'network', name: 'net-00', id: resources[0]!.id });

    await rhyzome.db.operator.deleteFrom('resource').where('tenant_id', '=', 'full').execute();
    await rhyzome.ok('tenant', 'delete', 'full');
    expect((await rhyzome.run('tenant', 'show', 'full')).status).toBe(3);
    expect(await rhyzome.audit('full')).toHaveLength(1);
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({ action: 'tenant.delete', details: { id: 'full' } });
    // The issuer is free again.
    await rhyzome.ok('tenant', 'create', 'heir', '--issuer', issuer('full'));
  });

  it('waits for a create under way before it deletes', async () => {
    await rhyzome.ok('tenant', 'create', 'race');
    let deletion: Promise<{ status: number }> | undefined;
    await rhyzome.db.operatorTransaction(async (tx) => {
      await tx
        .insertInto('resource')
        .values({ tenant_id: 'race', id: newId(), kind: 'network', name: 'n', state: 'ready', created_by: 'x' })
        .execute();
      deletion = rhyzome.run('tenant', 'delete', 'race');
      await new Promise((done) => setTimeout(done, 300));
    });
    expect((await deletion)?.status).toBe(1);
  });
});
