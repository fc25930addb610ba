/** What is said of permissions is what is decided. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseSelector, type Tags } from '#libs/core';
import type { AccessRule, Actor } from './actor.js';
import { explain, permissionsOf } from './explain.js';
import { isAllowed } from './permission.js';
import { parseScopes } from './scope.js';

const nora: Actor = { tenantId: 'acme', subject: 'nora', roles: [], scopes: null, via: 'token' };
const rule = (more: Partial<AccessRule>): AccessRule => ({
  grant: { id: 'g1', name: 'ops-dev' },
  verbs: ['update'],
  kinds: ['instance'],
  selector: null,
  ids: null,
  ...more,
});
const machine = (tags: Record<string, string>) => ({ tenantId: 'acme', kind: 'instance', id: 'i1', tags });
const kinds = [
  { name: 'instance', verbs: ['create', 'read', 'update', 'delete', 'reboot'] },
  { name: 'quota', verbs: ['read'] },
  { name: 'apitoken', verbs: ['create', 'read', 'delete'] },
];

describe('why', () => {
  const env = rule({ selector: parseSelector('env in (dev,test)') });
  test.each([
    ['a role', { ...nora, roles: ['operator' as const] }, {}, true, /role operator allows instance:reboot/],
    ['a role that means less', { ...nora, roles: ['viewer' as const] }, {}, false, /role viewer does not allow/],
    ['a grant', { ...nora, rules: [env] }, { env: 'dev' }, true, /“ops-dev” allows .* env in \(dev,test\)/],
    ['tags that do not fit', { ...nora, rules: [env] }, { env: 'prod' }, false, /and this has env=prod/],
    ['a tag that is missing', { ...nora, rules: [env] }, {}, false, /and this has no env/],
    ['another verb', { ...nora, rules: [rule({ verbs: ['read'] })] }, {}, false, /is for read, not reboot/],
    ['another kind', { ...nora, rules: [rule({ kinds: ['disk'] })] }, {}, false, /is for disk, not instance/],
    ['other resources', { ...nora, rules: [rule({ ids: ['i2'] })] }, {}, false, /names other resources/],
    [
      'scopes',
      { ...nora, rules: [env], scopes: parseScopes('disk:read') },
      { env: 'dev' },
      false,
      /disk:read only, and needs/,
    ],
    ['no grant', { ...nora, groups: ['ops'] }, {}, false, /no grant for this subject or one of the groups ops/],
    [
      'a role that grants define',
      { ...nora, roles: ['operator' as const], redefinedRoles: ['operator'] },
      {},
      false,
      /no longer what is built in/,
    ],
  ])('%s', (_, actor, tags, allowed, words) => {
    const told = explain(actor, 'reboot', machine(tags as Record<string, string>));
    expect(told.allowed).toBe(allowed);
    expect(told.reasons.map(({ message }) => message).join('\n')).toMatch(words);
    expect(told.reasons.every(({ allows }) => allows === allowed)).toBe(true);
  });
});

test('what an actor may do is told with where it comes from', () => {
  const actor = { ...nora, roles: ['viewer' as const], rules: [rule({ selector: parseSelector('env=dev') })] };
  expect(permissionsOf(actor, kinds)).toEqual([
    { kind: 'instance', verbs: ['read'], where: 'all', because: { role: 'viewer' } },
    {
      kind: 'instance',
      verbs: ['update', 'reboot'],
      where: { tagSelector: 'env=dev' },
      because: { grant: { id: 'g1', name: 'ops-dev' } },
    },
    { kind: 'quota', verbs: ['read'], where: 'all', because: { role: 'viewer' } },
    { kind: 'apitoken', verbs: ['create', 'read', 'delete'], where: { createdBy: 'nora' }, because: { own: true } },
  ]);
  const narrow = permissionsOf({ ...actor, scopes: parseScopes('instance:reboot') }, kinds);
  expect(narrow.map(({ kind, verbs }) => [kind, verbs])).toEqual([['instance', ['reboot']]]);
});

const verb = fc.constantFrom('create', 'read', 'update', 'delete', 'reboot', '*');
const kind = fc.constantFrom('instance', 'quota', 'apitoken', '*');
const anyActor: fc.Arbitrary<Actor> = fc.record({
  tenantId: fc.constant('acme'),
  subject: fc.constantFrom('nora', 'olga'),
  via: fc.constantFrom('token' as const, 'apitoken' as const),
  roles: fc.subarray(['admin' as const, 'operator' as const, 'viewer' as const]),
  redefinedRoles: fc.subarray(['operator', 'viewer']),
  scopes: fc.option(fc.array(fc.record({ kind, verb }), { maxLength: 2 })),
  rules: fc.array(
    fc
      .record({
        verbs: fc.tuple(verb),
        kinds: fc.tuple(kind),
        place: fc.constantFrom(null, 'env=dev', '!env', ['i1'], ['i2']),
      })
      .map(({ verbs, kinds: named, place }) =>
        rule({
          verbs,
          kinds: named,
          selector: typeof place === 'string' ? parseSelector(place) : null,
          ids: Array.isArray(place) ? place : null,
        }),
      ),
    { maxLength: 3 },
  ),
});

test('whatever is said is what is decided', () => {
  fc.assert(
    fc.property(
      anyActor,
      verb,
      kind,
      fc.constantFrom<Tags>({}, { env: 'dev' }, { env: 'prod' }),
      (actor, does, of, tags) => {
        const core = { tenantId: 'acme', kind: of, id: 'i1', tags, createdBy: 'nora' };
        const { allowed, reasons } = explain(actor, does, core);
        expect(allowed).toBe(isAllowed(actor, does, core));
        expect(reasons.length).toBeGreaterThan(0);
        expect(reasons.some(({ allows }) => allows)).toBe(allowed);
        const listed = permissionsOf(actor, kinds).filter((one) => one.kind === of && one.verbs.includes(does));
        if (kinds.find(({ name }) => name === of)?.verbs.includes(does))
          expect(listed.length > 0 || !allowed).toBe(true);
      },
    ),
    { numRuns: 3000 },
  );
});
