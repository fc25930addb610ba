/** Selectors: printed and parsed back, and what they hold for. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  isName,
  isTenantId,
  isUuid,
  newId,
  parseSelector,
  SelectorError,
  type SelectorTerm,
  selects,
  tagProblems,
} from '#libs/core';

const letters = [...'abcXYZ019'];
const key = fc
  .tuple(
    fc.constantFrom(...letters),
    fc.string({ unit: fc.constantFrom(...letters, '.', '_', '/', '-'), maxLength: 20 }),
  )
  .map(([first, rest]) => first + rest);
/** Without what separates terms and values. */
const value = fc
  .string({ unit: fc.constantFrom(...letters, ' ', 'ü', '€', '=', '!'), maxLength: 10 })
  .map((text) => text.trim());

const term: fc.Arbitrary<SelectorTerm> = fc.oneof(
  key.map((k): SelectorTerm => ({ op: 'exists', key: k })),
  key.map((k): SelectorTerm => ({ op: 'absent', key: k })),
  fc
    .tuple(key, fc.array(value, { minLength: 1, maxLength: 4 }))
    .map(([k, values]): SelectorTerm => ({ op: 'in', key: k, values })),
  fc
    .tuple(key, fc.array(value, { minLength: 1, maxLength: 4 }))
    .map(([k, values]): SelectorTerm => ({ op: 'notin', key: k, values })),
);

function print(one: SelectorTerm): string {
  if (!('values' in one)) return one.op === 'exists' ? one.key : `!${one.key}`;
  return `${one.key} ${one.op} (${one.values.join(',')})`;
}

describe('selectors', () => {
  test('what is printed is parsed back', () => {
    fc.assert(
      fc.property(fc.array(term, { minLength: 1, maxLength: 16 }), (terms) => {
        const text = terms.map(print).join(',');
        fc.pre(text.length <= 2048);
        expect(parseSelector(text)).toEqual(terms);
      }),
    );
  });

  test('the short forms mean the same as the long ones', () => {
    fc.assert(
      fc.property(key, value, (k, v) => {
        fc.pre(!v.startsWith('='));
        expect(parseSelector(`${k}=${v}`)).toEqual([{ op: 'in', key: k, values: [v] }]);
        expect(parseSelector(` ${k} == ${v} `)).toEqual([{ op: 'in', key: k, values: [v] }]);
        expect(parseSelector(`${k}!=${v}`)).toEqual([{ op: 'notin', key: k, values: [v] }]);
      }),
    );
  });

  test('no text makes the parser fail otherwise than by saying what is wrong', () => {
    const unit = fc.constantFrom(...'ab=!(), \0\n', 'in', 'notin', '\ud800');
    fc.assert(
      fc.property(fc.string({ unit, maxLength: 60 }), (text) => {
        try {
          expect(parseSelector(text).length).toBeGreaterThan(0);
        } catch (error) {
          expect(error).toBeInstanceOf(SelectorError);
        }
      }),
      { numRuns: 500 },
    );
  });

  test.each([
    [''],
    [','],
    ['a,'],
    ['a in b'],
    ['a in (b'],
    ['a in ((b))'],
    ['a)'],
    ['-a'],
    ['a b'],
    ['=v'],
    ['a in (x),'],
    ['a'.repeat(64)],
    [Array.from({ length: 17 }, (_, i) => `k${i}`).join()],
    [`a in (${Array.from({ length: 51 }, (_, i) => i).join()})`],
    ['a'.repeat(2049)],
    ['a=\0'],
  ])('refuses %j', (text) => expect(() => parseSelector(text)).toThrow(SelectorError));

  test('a term and its opposite hold for exactly one of every set of tags', () => {
    const tags = fc.dictionary(fc.constantFrom('a', 'b', 'constructor', '__proto__'), fc.constantFrom('x', 'y'));
    fc.assert(
      fc.property(tags, fc.constantFrom('a', 'constructor', 'toString'), fc.constantFrom('x', 'y'), (t, k, v) => {
        expect(selects([{ op: 'exists', key: k }], t)).toBe(!selects([{ op: 'absent', key: k }], t));
        expect(selects([{ op: 'in', key: k, values: [v] }], t)).toBe(
          !selects([{ op: 'notin', key: k, values: [v] }], t),
        );
        expect(selects([{ op: 'exists', key: k }], t)).toBe(Object.keys(t).includes(k));
      }),
    );
  });
});

describe('tags', () => {
  test('say of each key what is wrong', () => {
    expect(tagProblems({ ok: 'v', 'also/ok_1.2-3': '' })).toEqual([]);
    const wrong = { '-k': 'v', '': 'v', long: 'x'.repeat(256), line: 'a\nb', number: 7, lone: '\ud800' };
    expect(tagProblems(wrong).map(({ key: k, code }) => [k, code])).toEqual([
      ['-k', 'invalid_format'],
      ['', 'invalid_format'],
      ['long', 'invalid_format'],
      ['line', 'invalid_format'],
      ['number', 'wrong_type'],
      ['lone', 'invalid_format'],
    ]);
    const many = Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, 'v']));
    expect(tagProblems(many)).toMatchObject([{ key: null, code: 'too_many' }]);
    for (const value of [null, [], 'a', 7]) expect(tagProblems(value)).toMatchObject([{ code: 'wrong_type' }]);
  });
});

describe('names and ids', () => {
  test('a name is a DNS label that starts with a letter and is no UUID', () => {
    for (const name of ['a', 'web-1', 'a'.repeat(63)]) expect(isName(name), name).toBe(true);
    const uuid = 'abcdef01-2345-7789-8abc-def012345678';
    for (const name of ['', '1a', '-a', 'a-', 'A', 'a_b', 'a.b', 'a'.repeat(64), uuid, 'a\n', 'ä']) {
      expect(isName(name), name).toBe(false);
    }
    for (const id of ['', 'A', 'a-b', 'a'.repeat(64), 'a\n']) expect(isTenantId(id), id).toBe(false);
  });

  test('ids sort by the time of their making', () => {
    const ids = Array.from({ length: 500 }, newId);
    expect([...ids].sort()).toEqual(ids);
    for (const id of ids) expect(isUuid(id)).toBe(true);
    expect(new Set(ids).size).toBe(500);
  });
});
