/** When long streams end: at the token's end, soon after a refusal, and not because something is away. */
import { afterEach, describe, expect, test } from 'vitest';
import { RhyzomeError, StreamGuard, type StreamGuardOptions } from '#libs/core';

const guards: StreamGuard[] = [];
afterEach(() => {
  for (const guard of guards.splice(0)) guard.close();
});

function guarded(options: StreamGuardOptions): StreamGuard {
  const guard = new StreamGuard(options);
  guards.push(guard);
  return guard;
}

const ended = (guard: StreamGuard) => expect.poll(() => guard.reason?.message, { timeout: 5_000, interval: 5 });

describe('a stream guard', () => {
  test('ends at the moment that the token does', async () => {
    const expiresAt = new Date(Date.now() + 200);
    const guard = guarded({
      expiresAt,
      everyMs: 60_000,
      assertWelcome: () => {
        if (expiresAt.getTime() <= Date.now()) throw new RhyzomeError('unauthenticated', 'expired');
      },
    });
    expect(guard.reason).toBeUndefined();
    await ended(guard).toBe('expired');
    expect(guard.signal.aborted).toBe(true);
  });

  test('goes on while it cannot be known, and ends when it is', async () => {
    const answers = [
      new RhyzomeError('database_unavailable', 'away'),
      new RhyzomeError('identity_provider_unavailable', 'away'),
      new Error('a fault of ours'),
      undefined,
      new RhyzomeError('forbidden', 'no longer'),
    ];
    let asked = 0;
    const guard = guarded({
      everyMs: 5,
      assertWelcome: async () => {
        const answer = answers[asked++];
        if (answer) throw answer;
      },
    });
    await ended(guard).toBe('no longer');
    expect(asked).toBe(answers.length);
  });

  test('asks no more once it is closed, and lives with an end that is years away', async () => {
    let asked = 0;
    const guard = guarded({
      everyMs: 5,
      expiresAt: new Date(Date.now() + 400 * 24 * 3_600_000),
      assertWelcome: () => {
        asked += 1;
      },
    });
    await expect.poll(() => asked).toBeGreaterThan(1);
    guard.close();
    const before = asked;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(asked).toBe(before);
    expect(guard.reason).toBeUndefined();
  });
});
