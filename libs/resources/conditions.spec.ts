/** Conditions: one a type, whose transition time is that of its status. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Condition } from '#libs/core';
import { checkIdempotencyKey, withCondition } from '#libs/resources';

const change = fc.record({
  type: fc.constantFrom('Ready', 'LastChange', 'Placed'),
  status: fc.constantFrom('true' as const, 'false' as const, 'unknown' as const),
  reason: fc.constantFrom('A', 'B'),
  message: fc.string({ maxLength: 5 }),
  observedGeneration: fc.nat(9),
});

test('after any changes each type stands once, as it was said last, since its status last changed', () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 20 }), (changes) => {
      let conditions: Condition[] = [];
      const since = new Map<string, { status: string; at: string }>();
      for (const [i, one] of changes.entries()) {
        const now = new Date(1_700_000_000_000 + i * 1000);
        const before = JSON.stringify(conditions);
        const after = withCondition(conditions, one, now);
        expect(JSON.stringify(conditions)).toBe(before);
        conditions = after;
        if (since.get(one.type)?.status !== one.status)
          since.set(one.type, { status: one.status, at: now.toISOString() });
        expect(conditions.find(({ type }) => type === one.type)).toEqual({
          ...one,
          lastTransitionTime: since.get(one.type)!.at,
        });
        expect(new Set(conditions.map(({ type }) => type)).size).toBe(conditions.length);
      }
      expect(conditions).toHaveLength(since.size);
    }),
  );
});

test('an idempotency key is 1 to 255 printable ASCII characters without spaces', () => {
  for (const key of ['a', '!~', 'x'.repeat(255)]) expect(() => checkIdempotencyKey(key)).not.toThrow();
  for (const key of ['', ' ', 'a b', 'x'.repeat(256), 'ä', 'a\n', '\x7f']) {
    expect(() => checkIdempotencyKey(key), key).toThrow(
      expect.objectContaining({
        code: 'invalid',
        details: { errors: [expect.objectContaining({ header: 'Idempotency-Key' })] },
      }),
    );
  }
});
