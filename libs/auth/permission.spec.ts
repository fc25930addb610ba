/** Roles, scopes and authorize(): examples, and properties over all of their combinations. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Actor,
  actorForService,
  adminActor,
  authorize,
  may,
  mayList,
  parseScopes,
  type Role,
  renderRoleTable,
  roles,
  roleTable,
} from './index.js';

const actor = (roleNames: Role[], scope?: string): Actor => ({
  tenantId: 'acme',
  subject: 'someone',
  roles: roleNames,
  scopes: scope === undefined ? null : parseScopes(scope),
  via: 'token',
});

const network = { tenantId: 'acme', kind: 'network', id: '0198-id', name: 'lan' };

describe('roles', () => {
  it('admin does all, operator all but administration, viewer reads, nobody nothing', () => {
    expect(may(actor(['admin']), 'delete', 'tenant')).toBe(true);
    expect(may(actor(['operator']), 'delete', 'network')).toBe(true);
    expect(may(actor(['operator']), 'start', 'instance')).toBe(true);
    expect(may(actor(['operator']), 'update', 'tenant')).toBe(false);
    expect(may(actor(['operator']), 'read', 'tenant')).toBe(true);
    expect(may(actor(['viewer']), 'read', 'network')).toBe(true);
    expect(may(actor(['viewer']), 'start', 'instance')).toBe(false);
    expect(may(actor([]), 'read', 'network')).toBe(false);
  });

  it('make the table of the documentation', () => {
    const table = roleTable([
      { name: 'instance', changes: ['create', 'update', 'delete'], actions: ['start'] },
      { name: 'image', changes: [], actions: [] },
    ]);
    expect(table.map((row) => row.verb)).toEqual(['create', 'read', 'update', 'delete', 'start', 'read']);
    expect(table.at(-2)?.allowed).toEqual({ admin: true, operator: true, viewer: false });
    expect(renderRoleTable([{ name: 'instance', changes: [], actions: [] }])).toContain(
      '| `instance:read` | yes | yes | yes |',
    );
  });
});

describe('scopes', () => {
  it('narrow what the role allows', () => {
    const narrowed = actor(['admin'], 'openid network:create instance:start');
    expect(may(narrowed, 'create', 'network')).toBe(true);
    expect(may(narrowed, 'read', 'network')).toBe(false);
    expect(may(narrowed, 'start', 'instance')).toBe(true);
    expect(may(narrowed, 'stop', 'instance')).toBe(false);
    expect(may(actor(['operator'], 'instance:update'), 'stop', 'instance')).toBe(true);
    expect(may(actor(['operator'], 'instance:update'), 'delete', 'instance')).toBe(false);
    expect(mayList(actor(['viewer'], '*:read'), 'image')).toBe(true);
  });

  it('that are not Rhyzome’s do not narrow', () => {
    expect(parseScopes('openid profile https://x/y a:b:c Network:Read')).toBeNull();
    expect(parseScopes('*:* network:*')).toHaveLength(2);
  });

  const word = fc.constantFrom('network', 'instance', 'image', 'tenant', 'quota');
  const verb = fc.constantFrom('create', 'read', 'update', 'delete', 'start', 'stop');
  const star = fc.constant('*');
  const scopeList = fc.array(fc.tuple(fc.oneof(word, star), fc.oneof(verb, star)), { minLength: 1, maxLength: 5 });

  it('never widen: whatever a narrowed actor may, the role alone may too', () => {
    fc.assert(
      fc.property(fc.subarray([...roles]), scopeList, word, verb, (names, list, kind, action) => {
        const text = list.map((pair) => pair.join(':')).join(' ');
        if (may(actor(names, text), action, kind)) expect(may(actor(names), action, kind)).toBe(true);
      }),
    );
  });

  it('only grow: a further scope or role takes nothing away', () => {
    fc.assert(
      fc.property(scopeList, scopeList, word, verb, (one, two, kind, action) => {
        const text = (list: string[][]) => list.map((pair) => pair.join(':')).join(' ');
        if (may(actor(['operator'], text(one)), action, kind)) {
          expect(may(actor(['operator'], text([...two, ...one])), action, kind)).toBe(true);
          expect(may(actor(['operator', 'admin'], text(one)), action, kind)).toBe(true);
        }
      }),
    );
  });
});

const codeOf = (run: () => unknown): string => {
  try {
    run();
    return 'ok';
  } catch (error) {
    return (error as { code: string }).code;
  }
};

describe('authorize', () => {
  it('gives a token for what is allowed', () => {
    const token = authorize(actor(['operator']), 'update', network);
    expect(token).toMatchObject({ verb: 'update', core: network });
    expect(Object.isFrozen(token)).toBe(true);
  });

  it('answers 403 for what may be read, 404 for what may not', () => {
    expect(codeOf(() => authorize(actor(['viewer']), 'update', network))).toBe('forbidden');
    expect(codeOf(() => authorize(actor([]), 'read', network))).toBe('not_found');
    expect(codeOf(() => authorize(actor(['admin'], 'image:read'), 'update', network))).toBe('not_found');
    expect(codeOf(() => authorize(actor(['viewer']), 'create', network))).toBe('forbidden');
  });

  it('answers 404 for a foreign tenant’s, whatever the verb, and does not say its name', () => {
    const foreign = { ...network, tenantId: 'globex' };
    fc.assert(
      fc.property(
        fc.subarray([...roles]),
        fc.constantFrom('read', 'create', 'update', 'delete', 'start'),
        (names, verb) => {
          expect(codeOf(() => authorize(actor(names), verb, foreign))).toBe('not_found');
        },
      ),
    );
    expect(() => authorize(actor(['admin']), 'read', foreign, 'asked-for')).toThrow('“asked-for”');
    expect(() => authorize(actor(['admin']), 'read', foreign)).not.toThrow('lan');
  });

  it('lets everybody read what is public, and nobody foreign change it', () => {
    const image = { tenantId: 'system', kind: 'image', id: 'i', isPublic: true };
    expect(codeOf(() => authorize(actor(['viewer']), 'read', image))).toBe('ok');
    expect(codeOf(() => authorize(actor(['admin']), 'delete', image))).toBe('forbidden');
    expect(codeOf(() => authorize(actor([]), 'read', image))).toBe('not_found');
  });
});

describe('other actors', () => {
  it('a certificate does what its rights say, in its tenants', () => {
    const rights = { name: 'billing', tenants: ['acme'], verbs: ['*:read'] };
    expect(codeOf(() => authorize(actorForService(rights, 'acme'), 'read', network))).toBe('ok');
    expect(codeOf(() => authorize(actorForService(rights, 'acme'), 'delete', network))).toBe('forbidden');
    expect(codeOf(() => actorForService(rights, 'globex'))).toBe('forbidden');
    expect(may(actorForService({ ...rights, verbs: [] }, 'acme'), 'read', 'network')).toBe(false);
    expect(may(actorForService({ ...rights, tenants: '*', verbs: ['*:*'] }, 'globex'), 'delete', 'network')).toBe(true);
  });

  it('the shell’s administrator does all in the tenant it names', () => {
    expect(codeOf(() => authorize(adminActor('acme', 'root'), 'delete', network))).toBe('ok');
    expect(codeOf(() => authorize(adminActor('globex', 'root'), 'delete', network))).toBe('not_found');
  });
});
