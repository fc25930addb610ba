/** What may be given, against asking for every resource of small worlds whether its author has it. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseSelector, type Selector, selects, type Tags } from '#libs/core';
import { ruleNames } from './access.js';
import type { AccessRule, Actor } from './actor.js';
import { cutTo, type Given, type GrantableKind, shortfalls, type Where } from './coverage.js';
import { isAllowed } from './permission.js';
import { isImpossible, selectedByBoth, selectorText, selectsWithin, selectsWithinAny } from './selector-sets.js';

const grant = { id: 'g', name: 'g' };
const kinds: GrantableKind[] = [
  { name: 'instance', actions: ['reboot', 'start'] },
  { name: 'disk', actions: ['attach'] },
  { name: 'grant', actions: [] },
];
const nobody: Actor = { tenantId: 'acme', subject: 'nora', roles: [], scopes: null, via: 'token' };

const keys = ['env', 'team'];
/** One that no selector names stands for all of these. */
const values = ['a', 'b', 'c', 'other'];
const allTags: Tags[] = [undefined, ...values].flatMap((env) =>
  [undefined, ...values].map((team) => ({ ...(env && { env }), ...(team && { team }) })),
);
const ids = ['r1', 'r2', 'r3'];
interface Resource {
  id: string;
  tags: Tags;
}

const key = fc.constantFrom(...keys);
const value = fc.constantFrom('a', 'b', 'c');
const term = fc.oneof(
  fc.record({ op: fc.constantFrom('exists' as const, 'absent' as const), key }),
  fc.record({
    op: fc.constantFrom('in' as const, 'notin' as const),
    key,
    values: fc.uniqueArray(value, { minLength: 1, maxLength: 3 }),
  }),
);
const selector = fc.array(term, { minLength: 1, maxLength: 3 }) as fc.Arbitrary<Selector>;

describe('selectors as sets', () => {
  const picked = (one: Selector) => allTags.filter((tags) => selects(one, tags));

  test('one lies in another exactly when nothing is picked by the one alone', () => {
    fc.assert(
      fc.property(selector, selector, (inner, outer) => {
        expect(selectsWithin(inner, outer)).toBe(picked(inner).every((tags) => selects(outer, tags)));
        expect(isImpossible(inner)).toBe(picked(inner).length === 0);
      }),
      { numRuns: 2000 },
    );
  });

  test('what lies in several together is never said of what does not', () => {
    fc.assert(
      fc.property(selector, fc.array(selector, { maxLength: 4 }), (inner, outers) => {
        if (!selectsWithinAny(inner, outers)) return;
        for (const tags of picked(inner)) expect(outers.some((outer) => selects(outer, tags))).toBe(true);
      }),
      { numRuns: 2000 },
    );
    const parts = ['env=dev,team=a', 'env=test,team=a'].map(parseSelector);
    expect(selectsWithinAny(parseSelector('env in (dev,test),team=a'), parts)).toBe(true);
    expect(selectsWithinAny(parseSelector('env in (dev,prod),team=a'), parts)).toBe(false);
  });

  test('what both pick is what is left, and can be read again', () => {
    fc.assert(
      fc.property(selector, selector, (a, b) => {
        const common = selectedByBoth(a, b);
        const both = allTags.filter((tags) => selects(a, tags) && selects(b, tags));
        if (!common) {
          expect(both).toEqual([]);
          return;
        }
        expect(picked(common)).toEqual(both);
        expect(picked(parseSelector(selectorText(common)!))).toEqual(both);
      }),
      { numRuns: 2000 },
    );
  });

  test.each([
    'k=a(b,c)',
    'k==',
    'k===v',
    'k!==v',
    'k=',
    'k!=a(b,c),k notin (d,e)',
    'k in (a,)',
    'k=x y',
    '!k',
    'k',
    'k=in (x)',
  ])('the text of “%s” means the same', (text) => {
    const meant = parseSelector(text);
    expect(parseSelector(selectorText(meant)!)).toEqual(meant);
  });

  test('what cannot be said within the limits is not said', () => {
    const terms = Array.from({ length: 17 }, (_, n): Selector[number] => ({ op: 'exists', key: `k${n}` }));
    expect(selectorText(terms)).toBeUndefined();
    expect(selectorText([{ op: 'in', key: 'k', values: ['a,b', 'c'] }])).toBeUndefined();
  });
});

const verb = fc.constantFrom('create', 'read', 'update', 'delete', 'reboot', '*');
const kind = fc.constantFrom('instance', 'disk', 'grant', '*');
const some = <T>(one: fc.Arbitrary<T>) => fc.uniqueArray(one, { minLength: 1, maxLength: 2 });
const rule: fc.Arbitrary<AccessRule> = fc
  .record({
    verbs: some(verb),
    kinds: some(kind),
    place: fc.oneof(fc.constant(null), selector, some(fc.constantFrom(...ids))),
  })
  .map(({ verbs, kinds: named, place }) => {
    const isNamed = place !== null && typeof place[0] === 'string';
    return {
      grant,
      verbs,
      kinds: named,
      selector: isNamed ? null : (place as Selector | null),
      ids: isNamed ? (place as string[]) : null,
    };
  });
const author: fc.Arbitrary<Actor> = fc.record({
  tenantId: fc.constant('acme'),
  subject: fc.constant('nora'),
  via: fc.constant('token' as const),
  roles: fc.subarray(['operator' as const, 'viewer' as const]),
  redefinedRoles: fc.subarray(['operator', 'viewer']),
  rules: fc.array(rule, { maxLength: 4 }),
  scopes: fc.option(fc.array(fc.record({ kind, verb }), { maxLength: 2 }), { freq: 2 }),
});
/** Three resources with ids; the rest of the world has ids of its own. */
const world = fc.tuple(...ids.map((id) => fc.constantFrom(...allTags).map((tags): Resource => ({ id, tags }))));
const asked = fc.tuple(
  world,
  some(verb),
  some(kind),
  fc.oneof(fc.constant(null), selector, fc.subarray(ids, { minLength: 1 })),
);

function given([resources, verbs, named, place]: readonly [
  Resource[],
  string[],
  string[],
  null | Selector | string[],
]): Given {
  const where = (): Where => {
    if (place === null) return { is: 'all' };
    if (typeof place[0] !== 'string') return { is: 'selected', selector: place as Selector };
    return { is: 'named', resources: resources.filter(({ id }) => (place as string[]).includes(id)) };
  };
  return { verbs, kinds: named, where: where() };
}

function gives({ verbs, kinds: named, where }: Given, does: string, of: string, { id, tags }: Resource): boolean {
  if (!ruleNames({ verbs, kinds: named }, does, of)) return false;
  if (where.is === 'all') return true;
  return where.is === 'selected' ? selects(where.selector, tags) : where.resources.some((one) => one.id === id);
}

/** Every verb, also one to come, on every kind, also one to come, and everything that there may be of it. */
function everyCase(resources: Resource[]): [string, string, Resource][] {
  const all = [...resources, ...allTags.map((tags) => ({ id: 'another', tags }))];
  return ['create', 'read', 'update', 'delete', 'reboot', 'attach', 'to-come'].flatMap((does) =>
    ['instance', 'disk', 'grant', 'to-come'].flatMap((of) =>
      all.map((one): [string, string, Resource] => [does, of, one]),
    ),
  );
}

const has = (actor: Actor, does: string, of: string, one: Resource) =>
  isAllowed(actor, does, { tenantId: 'acme', kind: of, ...one });

describe('who may give', () => {
  test('has all of it himself', () => {
    let allowed = 0;
    fc.assert(
      fc.property(author, asked, (actor, what) => {
        const grants = given(what);
        if (shortfalls(actor, grants, kinds).length > 0) return;
        allowed++;
        for (const [does, of, one] of everyCase(what[0])) {
          if (gives(grants, does, of, one) && !has(actor, does, of, one)) {
            throw new Error(`${does} ${of} ${JSON.stringify(one)} is given and not had`);
          }
        }
      }),
      { numRuns: 1500 },
    );
    expect(allowed).toBeGreaterThan(30);
  });

  test('is not refused what one rule of his gives, or all that there is', () => {
    fc.assert(
      fc.property(rule, asked, (only, what) => {
        const actor = { ...nobody, rules: [only] };
        const grants = given(what);
        // Of what is to come under a selector, ids say nothing.
        if (grants.where.is !== 'named' && only.ids) return;
        const hasAll = everyCase(what[0]).every(
          ([does, of, one]) => !gives(grants, does, of, one) || has(actor, does, of, one),
        );
        if (hasAll) expect(shortfalls(actor, grants, kinds)).toEqual([]);
      }),
      { numRuns: 1500 },
    );
    const grants: Given = { verbs: ['*'], kinds: ['*'], where: { is: 'all' } };
    expect(shortfalls({ ...nobody, roles: ['admin'] }, grants, kinds)).toEqual([]);
    expect(shortfalls({ ...nobody, roles: ['operator'] }, grants, kinds)).toEqual([{ verb: '*', kind: '*' }]);
  });

  test('is told each verb and kind that is missing', () => {
    const actor = { ...nobody, roles: ['viewer' as const] };
    const grants: Given = { verbs: ['read', 'reboot'], kinds: ['instance', 'disk'], where: { is: 'all' } };
    expect(shortfalls(actor, grants, kinds)).toEqual([
      { verb: 'reboot', kind: 'instance' },
      { verb: 'reboot', kind: 'disk' },
    ]);
  });
});

describe('what is cut', () => {
  const isGiven = (rules: Given[], does: string, of: string, one: Resource) =>
    rules.some((part) => gives(part, does, of, one));

  test('never gives more than was asked, nor than its author has', () => {
    fc.assert(
      fc.property(author, asked, (actor, what) => {
        const grants = given(what);
        const rules = cutTo(actor, grants, kinds);
        for (const [does, of, one] of everyCase(what[0])) {
          if (!isGiven(rules, does, of, one)) continue;
          if (!gives(grants, does, of, one)) throw new Error(`${does} ${of} was not asked for`);
          if (!has(actor, does, of, one)) throw new Error(`${does} ${of} ${JSON.stringify(one)} is not the author’s`);
        }
      }),
      { numRuns: 1500 },
    );
  });

  test('is all that was asked where its author has it, and all that he has where more was asked', () => {
    fc.assert(
      fc.property(author, asked, (actor, what) => {
        const grants = given(what);
        const rules = cutTo(actor, grants, kinds);
        const isWhole = shortfalls(actor, grants, kinds).length === 0;
        const hasNoIds = (actor.rules ?? []).every((one) => one.ids === null);
        if (!isWhole && !hasNoIds) return;
        for (const [does, of, one] of everyCase(what[0])) {
          // Of actions to come, and those that a kind has not, nothing is said.
          const isAction = !['create', 'read', 'update', 'delete'].includes(does);
          const isKnown = kinds.some(({ name, actions }) => name === of && (!isAction || actions.includes(does)));
          if (!isKnown) continue;
          const expected = gives(grants, does, of, one) && has(actor, does, of, one);
          if (isGiven(rules, does, of, one) !== expected) throw new Error(`${does} ${of} ${JSON.stringify(one)}`);
        }
      }),
      { numRuns: 1500 },
    );
  });

  test('is written with few rules', () => {
    const actor: Actor = {
      ...nobody,
      rules: [
        { grant, verbs: ['read'], kinds: ['*'], selector: null, ids: null },
        { grant, verbs: ['update'], kinds: ['instance'], selector: parseSelector('env in (dev,test)'), ids: null },
      ],
    };
    const grants: Given = { verbs: ['*'], kinds: ['*'], where: { is: 'selected', selector: parseSelector('env=dev') } };
    const where = { is: 'selected', selector: parseSelector('env=dev') };
    expect(cutTo(actor, grants, kinds)).toEqual([
      { verbs: ['read'], kinds: ['*'], where },
      { verbs: ['update'], kinds: ['instance'], where },
    ]);
  });
});
