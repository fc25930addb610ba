/** Nesting of JSON values, of any depth. */
import { expect, it } from 'vitest';
import { isNestedDeeper } from './nesting.js';

const lists = (depth: number): unknown => JSON.parse('['.repeat(depth) + ']'.repeat(depth));

it('counts levels of lists and objects, and stands any depth', () => {
  expect(isNestedDeeper('text', 0)).toBe(false);
  expect(isNestedDeeper(null, 0)).toBe(false);
  expect(isNestedDeeper({ a: [1, { b: null }] }, 3)).toBe(false);
  expect(isNestedDeeper({ a: [1, { b: null }] }, 2)).toBe(true);
  expect(isNestedDeeper(lists(64))).toBe(false);
  expect(isNestedDeeper(lists(65))).toBe(true);
  expect(isNestedDeeper(lists(500_000))).toBe(true);
});
