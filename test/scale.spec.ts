/**
 * The benchmark of sizes, small: a tenant of 20,000 resources beside one of 500. Ratios are asserted with room for a busy
 * machine; a list that reads all that a tenant has is ten times as slow already here.
 */
import 'reflect-metadata';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadScale, quickSize, type TestDatabase, testDatabase } from '#libs/testing';
import { measureScale, type ScaleResult } from '../bench/scale.js';

let database: TestDatabase;
let results: ScaleResult[];

beforeAll(async () => {
  database = await testDatabase();
  await loadScale(database.url, quickSize);
  results = await measureScale(database.url, { rounds: 3, times: 4 });
}, 300_000);
afterAll(() => database?.close());

describe('what a request costs does not follow from the size of its tenant', () => {
  test('in the middle of all cases', () => {
    const ratios = results.filter(({ isCounting }) => !isCounting).map(({ ratio }) => ratio);
    expect(ratios.length).toBeGreaterThan(80);
    expect(ratios.toSorted((a, b) => a - b)[Math.floor(ratios.length / 2)]).toBeLessThan(1.5);
  });

  test('in each case', () => {
    expect(results.filter(({ ratio, isCounting }) => !isCounting && ratio > 6)).toEqual([]);
  });

  test('in statements, at all', () => {
    for (const { statements, case: name } of results) expect(statements[0], name).toBeCloseTo(statements[1], 1);
  });
});
