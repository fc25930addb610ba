/** What actors reach, compared with asking every rule one after the other. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Selector, selects, type Tags } from '#libs/core';
import { everything, isEmpty, reaches, reachOf } from './access.js';
import type { AccessRule, Actor } from './actor.js';
import { authorize, isAllowed, may, mayAll } from './permission.js';

const nobody: Actor = { tenantId: 'acme', subject: 'nora', roles: [], scopes: null, via: 'token' };
const grant = { id: 'g', name: 'g' };
const rule = (more: Partial<AccessRule>): AccessRule => ({
  grant,
  verbs: ['read'],
  kinds: ['instance'],
  selector: null,
  ids: null,
  ...more,
});
const machine = (tags: Tags, id = 'i1') => ({ tenantId: 'acme', kind: 'instance', id, tags });

describe('what grants reach', () => {
  test('all of a kind, those with tags, those named, and nothing else', () => {
    const actor = {
      ...nobody,
      rules: [
        rule({ kinds: ['network'] }),
        rule({ verbs: ['update', 'read'], selector: [{ op: 'in', key: 'env', values: ['dev', 'test'] }] }),
        rule({ ids: ['i7'] }),
      ],
    };
    expect(mayAll(actor, 'read', 'network')).toBe(true);
    expect(may(actor, 'update', 'network')).toBe(false);
    expect(isAllowed(actor, 'read', machine({ env: 'dev' }))).toBe(true);
    expect(isAllowed(actor, 'reboot', machine({ env: 'dev' }))).toBe(true);
    expect(isAllowed(actor, 'delete', machine({ env: 'dev' }))).toBe(false);
    expect(isAllowed(actor, 'read', machine({ env: 'prod' }))).toBe(false);
    expect(isAllowed(actor, 'read', machine({ env: 'prod' }, 'i7'))).toBe(true);
    expect(isAllowed(actor, 'update', machine({ env: 'prod' }, 'i7'))).toBe(false);
    expect(isAllowed(actor, 'read', { ...machine({ env: 'dev' }), tenantId: 'globex' })).toBe(false);
  });

  test('what may be known of is forbidden, what may not be is not found', () => {
    const actor = { ...nobody, rules: [rule({ selector: [{ op: 'exists', key: 'shared' }] })] };
    const refusal = (core: ReturnType<typeof machine>) => {
      try {
        authorize(actor, 'delete', core);
        return 'allowed';
      } catch (error) {
        return (error as { code: string }).code;
      }
    };
    expect(refusal(machine({ shared: 'yes' }))).toBe('forbidden');
    expect(refusal(machine({}))).toBe('not_found');
  });

  test('a selector of what lacks a tag picks nothing whose tags are not known', () => {
    const reach = reachOf(
      { ...nobody, rules: [rule({ selector: [{ op: 'absent', key: 'secret' }] })] },
      'read',
      'instance',
    );
    expect(reaches(reach, { tags: {} })).toBe(true);
    expect(reaches(reach, { id: 'i1' })).toBe(false);
  });

  test('scopes narrow what grants give', () => {
    const actor = {
      ...nobody,
      rules: [rule({ verbs: ['*'], kinds: ['*'] })],
      scopes: [{ kind: 'network', verb: 'read' }],
    };
    expect(mayAll(actor, 'read', 'network')).toBe(true);
    expect(may(actor, 'read', 'instance')).toBe(false);
    expect(may(actor, 'update', 'network')).toBe(false);
  });
});

describe('roles', () => {
  test('mean what the tenant’s grants say once there are some, but for admin', () => {
    const operator: Actor = { ...nobody, roles: ['operator'] };
    expect(mayAll(operator, 'delete', 'instance')).toBe(true);
    const redefined = { ...operator, redefinedRoles: ['operator', 'admin'], rules: [rule({})] };
    expect(may(redefined, 'delete', 'instance')).toBe(false);
    expect(mayAll(redefined, 'read', 'instance')).toBe(true);
    expect(mayAll({ ...redefined, roles: ['admin'] }, 'delete', 'instance')).toBe(true);
  });

  test('API tokens are their owner’s business, and make no further ones', () => {
    const mine = { tenantId: 'acme', kind: 'apitoken', id: 't', tags: {}, createdBy: 'nora' };
    expect(isAllowed(nobody, 'create', mine)).toBe(true);
    expect(isAllowed(nobody, 'delete', mine)).toBe(true);
    expect(isAllowed(nobody, 'read', { ...mine, createdBy: 'alice' })).toBe(false);
    expect(isAllowed({ ...nobody, via: 'apitoken' }, 'create', mine)).toBe(false);
    expect(may({ ...nobody, via: 'certificate' }, 'read', 'apitoken')).toBe(false);
  });
});

const key = fc.constantFrom('env', 'team');
const value = fc.constantFrom('a', 'b', 'c');
const tags = fc.dictionary(key, value) as fc.Arbitrary<Tags>;
const term = fc.oneof(
  fc.record({ op: fc.constantFrom('exists' as const, 'absent' as const), key }),
  fc.record({
    op: fc.constantFrom('in' as const, 'notin' as const),
    key,
    values: fc.array(value, { minLength: 1, maxLength: 2 }),
  }),
);
const selector = fc.array(term, { minLength: 1, maxLength: 3 }) as fc.Arbitrary<Selector>;
const id = fc.constantFrom('i1', 'i2', 'i3');
const anyRule: fc.Arbitrary<AccessRule> = fc.oneof(
  selector.map((picked) => rule({ selector: picked })),
  fc.array(id, { maxLength: 2 }).map((ids) => rule({ ids })),
  fc.constant(rule({ kinds: ['network'] })),
);

test('a reach has what any of its rules has, however many go together', () => {
  fc.assert(
    fc.property(fc.array(anyRule, { maxLength: 6 }), tags, id, (rules, its, which) => {
      const actor = { ...nobody, rules };
      const picked = rules.some(
        (one) =>
          one.kinds.includes('instance') && (one.ids?.includes(which) ?? (!one.selector || selects(one.selector, its))),
      );
      expect(isAllowed(actor, 'read', machine(its, which))).toBe(picked);
      if (picked) expect(may(actor, 'read', 'instance')).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test('everything is not empty', () => {
  expect(isEmpty(everything)).toBe(false);
  expect(isEmpty(reachOf(nobody, 'read', 'instance'))).toBe(true);
});
