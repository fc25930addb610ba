/** Whose a token is and what it gives, in a realm of the tenant's own and in one that tenants share. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { TokenVerifier } from './index.js';
import { reasonOf, TestKeyServer } from './test-key-server.js';

let server: TestKeyServer;
let verifier: TokenVerifier;
beforeAll(async () => {
  server = await TestKeyServer.start();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await server.reset();
  verifier = server.verifier();
});

const actor = async (claims: object) => verifier.verify(await server.sign({ claims: claims as never }));
const reason = async (claims: object) => reasonOf(await server.sign({ claims: claims as never }), verifier);

describe('in a realm of its own a token', () => {
  it('gives groups by their names, Keycloak’s paths without the slash', async () => {
    expect((await actor({ groups: ['/ops', 'dev', '/ops', '/team/a'] })).groups).toEqual(['ops', 'dev', 'team/a']);
  });

  it('without groups, or with something else in the claim, gives none', async () => {
    for (const groups of [
      undefined,
      null,
      'ops',
      7,
      { ops: true },
      [],
      ['', '/', 3, null, 'a\u0000b', 'x'.repeat(600)],
    ])
      expect((await actor({ groups })).groups).toEqual([]);
  });

  it('with more groups than 200 is refused, not cut', async () => {
    const many = (count: number) => Array.from({ length: count }, (_, i) => `g${i}`);
    expect((await actor({ groups: many(200) })).groups).toHaveLength(200);
    expect(await reason({ groups: many(201) })).toBe('claim');
  });

  it('belongs to the realm’s tenant, whatever organization it names', async () => {
    expect(await actor({ organization: ['globex'], groups: ['/globex/roles/viewer'] })).toMatchObject({
      tenantId: 'acme',
      roles: ['admin', 'operator'],
      groups: ['globex/roles/viewer'],
    });
  });
});

describe('in a realm that tenants share a token', () => {
  beforeEach(() => {
    server.knows(
      { organization: 'acme', tenantId: 'acme' },
      { organization: 'globex', tenantId: 'globex', audience: 'urn:globex' },
      { organization: 'gone', tenantId: 'gone', tenantState: 'suspended' },
    );
  });

  const groups = ['/acme/roles/operator', '/acme/groups/ops', '/globex/roles/admin', '/globex/groups/root'];

  it.each([
    ['a list', ['acme']],
    ['an object', { acme: { id: '42' } }],
  ])('belongs to the tenant of its organization, as %s', async (_, organization) => {
    expect(await actor({ organization, groups })).toMatchObject({
      tenantId: 'acme',
      roles: ['operator'],
      groups: ['ops'],
    });
  });

  it('gets nothing from roles of the realm, and nothing from groups that only look like its tenant’s', async () => {
    const others = [
      'acme/roles/admin',
      '/acme/roles',
      '/acme/roles/',
      '/acme/roles/admin/x',
      '/acmes/roles/admin',
      '/ops',
    ];
    expect(await actor({ organization: ['acme'], groups: others })).toMatchObject({ roles: [], groups: [] });
  });

  it('is not narrowed by the scope that asks for the organization', async () => {
    const claims = { organization: ['acme'], groups };
    expect((await actor({ ...claims, scope: 'openid organization:acme' })).scopes).toBeNull();
    expect((await actor({ ...claims, scope: 'organization:acme network:read' })).scopes).toEqual([
      { kind: 'network', verb: 'read' },
    ]);
  });

  it.each([
    ['none', undefined],
    ['null', null],
    ['a word', 'acme'],
    ['an empty list', []],
    ['an empty object', {}],
    ['two', ['acme', 'globex']],
    ['two in an object', { acme: {}, globex: {} }],
    ['a number', [7]],
    ['an empty name', ['']],
    ['one that nobody has', ['initech']],
    ['a name in other letters', ['ACME']],
    ['a property of all objects', ['constructor']],
  ])('with %s as its organization is refused', async (_, organization) => {
    expect(await reason({ organization, groups })).toBe('organization');
  });

  it('is for the audience of its tenant', async () => {
    expect(await reason({ organization: ['globex'] })).toBe('wrong_audience');
    expect(await reason({ organization: ['globex'], aud: ['account', 'urn:globex'] })).toBe('accepted');
  });

  it('is refused while its tenant is suspended, the others’ are not', async () => {
    expect(await reason({ organization: ['gone'] })).toBe('tenant_suspended');
    expect(await reason({ organization: ['acme'] })).toBe('accepted');
  });

  it('that was taken is refused once its organization is another’s, or nobody’s', async () => {
    const token = await server.sign({ claims: { organization: ['acme'], groups } as never });
    await verifier.verify(token);
    server.knows({ organization: 'acme', tenantId: 'other' });
    expect(await verifier.verify(token)).toMatchObject({ tenantId: 'other', roles: [], groups: [] });
    server.knows({ organization: 'globex', tenantId: 'globex' });
    expect(await reasonOf(token, verifier)).toBe('organization');
  });

  it('of a tenant that is new is found by looking again', async () => {
    const rows = server.entries;
    server.knows({ organization: 'globex', tenantId: 'globex' });
    const before = server.entries;
    verifier = server.verifier({
      directory: { find: (iss) => before.get(iss), lookAgain: async (iss) => rows.get(iss) },
    });
    expect(await actor({ organization: ['acme'] })).toMatchObject({ tenantId: 'acme' });
  });
});
