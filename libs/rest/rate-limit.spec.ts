/** Rate limits over time that the test makes pass: never more than burst and rate allow, and never less. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RhyzomeError } from '#libs/core';
import { RateLimiter, TokenBuckets } from './rate-limit.js';

const limits = {
  tenantPerSecond: 10,
  tenantBurst: 20,
  userPerSecond: 5,
  userBurst: 8,
  addressPerSecond: 2,
  addressBurst: 3,
};

function limiter() {
  let now = 0;
  const made = new RateLimiter(limits, () => now);
  const headers: Record<string, string> = {};
  const attempt = (count: () => void): RhyzomeError | undefined => {
    try {
      count();
      return undefined;
    } catch (error) {
      if (error instanceof RhyzomeError) return error;
      throw error;
    }
  };
  const set = (name: string, value: string) => {
    headers[name] = value;
  };
  return {
    headers,
    pass: (ms: number) => (now += ms),
    user: (tenantId: string, subject: string) => attempt(() => made.countUser({ tenantId, subject }, set)),
    address: (address: string) => attempt(() => made.countAddress(address, set)),
  };
}

describe('a token bucket', () => {
  test('lets through burst + rate × time in any span, and all that comes slower than its rate', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.integer({ min: 1, max: 50 }),
        fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 1, maxLength: 200 }),
        (perSecond, burst, gaps) => {
          let now = 0;
          const buckets = new TokenBuckets('p', perSecond, burst, () => now);
          const passed: number[] = [];
          for (const gap of gaps) {
            now += gap;
            const { retryAfterSeconds, remaining } = buckets.take('k');
            expect(remaining).toBeGreaterThanOrEqual(0);
            if (retryAfterSeconds === undefined) passed.push(now);
            else {
              now += retryAfterSeconds * 1000;
              expect(buckets.take('k').retryAfterSeconds, 'after Retry-After').toBeUndefined();
              passed.push(now);
            }
          }
          for (const [i, from] of passed.entries()) {
            for (const [j, to] of passed.entries()) {
              if (j >= i) expect(j - i + 1).toBeLessThanOrEqual(burst + ((to - from) / 1000) * perSecond + 1e-6);
            }
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  test('is forgotten when too many others have come since, never more than the bound', () => {
    const buckets = new TokenBuckets('p', 1, 2, () => 0, 100);
    for (let n = 0; n < 1000; n++) buckets.take(`k${n}`);
    expect(buckets.size).toBe(100);
    buckets.take('k999');
    expect(buckets.take('k999').retryAfterSeconds).toBe(1);
  });
});

describe('the limits', () => {
  test('are told with each answer, by their names', () => {
    const { user, headers } = limiter();
    expect(user('acme', 'ann')).toBeUndefined();
    expect(headers['ratelimit-policy']).toBe('"tenant";q=20;w=2, "user";q=8;w=2');
    expect(headers.ratelimit).toBe('"tenant";r=19;t=1, "user";r=7;t=1');
  });

  test('keep one user from using up what the tenant has, and tenants from each other', () => {
    const { user } = limiter();
    const outcomes = Array.from({ length: 30 }, () => user('acme', 'ann'));
    expect(outcomes.filter((error) => error === undefined)).toHaveLength(8);
    expect(outcomes.at(-1)).toMatchObject({
      code: 'too_many_requests',
      details: { retryAfterSeconds: 1, extensions: { policy: 'user' } },
    });
    const others = Array.from({ length: 30 }, (_, n) => user('acme', `user${n}`));
    expect(others.filter((error) => error === undefined)).toHaveLength(12);
    expect(others.at(-1)?.details.extensions).toEqual({ policy: 'tenant' });
    expect(user('globex', 'ann')).toBeUndefined();
  });

  test('go on after the time that the refusal says', () => {
    const { user, pass } = limiter();
    while (!user('acme', 'ann'));
    pass(user('acme', 'ann')!.details.retryAfterSeconds! * 1000);
    expect(user('acme', 'ann')).toBeUndefined();
  });

  test('take an IPv6 host for one, whatever address of its /64 it uses', () => {
    const { address } = limiter();
    const outcomes = ['2001:db8::1', '2001:db8::2', '2001:db8:0:0:ffff::1', '2001:db8:0:0::'].map(address);
    expect(outcomes.map((error) => error?.code)).toEqual([undefined, undefined, undefined, 'too_many_requests']);
    expect(address('2001:db8:0:1::1')).toBeUndefined();
    expect(address('::1')).toBeUndefined();
    expect(['192.0.2.1', '::ffff:192.0.2.2', '192.0.2.3'].map(address)).toEqual([undefined, undefined, undefined]);
  });
});
