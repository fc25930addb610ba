import { expect, test } from 'vitest';
import { timeRangeOf } from './audit-reading.js';

test.each([
  ['2026-11-22T08:00:00Z', '2026-11-22T08:00:00.000Z'],
  ['2026-11-22T08:00:00.5+02:00', '2026-11-22T06:00:00.500Z'],
])('a range of time begins at %s', (from, at) => {
  expect(timeRangeOf({ from }).from?.toISOString()).toBe(at);
});

// The last one is a year that PostgreSQL does not read as it is written.
test.each([
  '2026-11-22',
  '2026-11-22T08:00:00',
  '1969-01-01T00:00:00Z',
  '2026-13-01T00:00:00Z',
  '9999-12-31T23:59:59-01:00',
])('and not at %s', (from) => {
  expect(() => timeRangeOf({ from })).toThrow(
    expect.objectContaining({
      code: 'invalid',
      details: expect.objectContaining({ errors: [expect.objectContaining({ parameter: 'from' })] }),
    }),
  );
});
