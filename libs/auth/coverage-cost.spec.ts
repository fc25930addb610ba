/** What it takes to decide what somebody may give does not grow with kinds and verbs: it is decided while others wait. */
import { expect, test } from 'vitest';
import { parseSelector } from '#libs/core';
import type { AccessRule, Actor } from './actor.js';
import { cutTo, MAX_PARTS, shortfalls, TooManyParts } from './coverage.js';

const kinds = Array.from({ length: 17 }, (_, n) => ({ name: `kind${n}`, actions: ['start', 'stop', 'reboot'] }));
const verbs = ['read', 'create', 'update', 'delete'];

/** Selectors as long as they may be, none of which lies in another. */
function author(count: number): Actor {
  const rules = Array.from({ length: count }, (_, n): AccessRule => {
    const values = Array.from({ length: 14 }, (__, m) => `v${n}x${m}`).join(',');
    const text = Array.from({ length: 16 }, (__, k) => `k${k} in (${values})`).join(',');
    return { grant: { id: `${n}`, name: `g${n}` }, verbs, kinds: ['*'], ids: null, selector: parseSelector(text) };
  });
  return { tenantId: 't', subject: 's', roles: [], groups: [], scopes: null, via: 'token', rules, redefinedRoles: [] };
}

test('of a great many long selectors is a moment', () => {
  const many = author(1000);
  const startedAt = performance.now();
  const all = { verbs: ['*'], kinds: ['*'], where: { is: 'all' as const } };
  expect(() => cutTo(many, all, kinds)).toThrow(TooManyParts);
  const given = cutTo(author(MAX_PARTS), all, kinds);
  expect(given).toHaveLength(MAX_PARTS);
  expect(given[0]).toMatchObject({ verbs: ['*'], kinds: ['*'] });
  const every = parseSelector(Array.from({ length: 16 }, (_, k) => `k${k} in (a,b,c,d,e,f,g,h)`).join(','));
  expect(shortfalls(many, { verbs: ['*'], kinds: ['*'], where: { is: 'selected', selector: every } }, kinds)).toEqual([
    { verb: '*', kind: '*' },
  ]);
  // It was minutes when each verb of each kind was decided by itself.
  expect(performance.now() - startedAt).toBeLessThan(5_000);
});
