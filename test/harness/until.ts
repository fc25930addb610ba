/** Waiting for a state that a user could see, with a limit. */
import { setTimeout as sleep } from 'node:timers/promises';

/** Until `holds` gives something true; returns it. Throws after `limitMs` with what was waited for. */
export async function until<T>(
  what: string,
  holds: () => T | Promise<T>,
  limitMs = 30_000,
  pauseMs = 50,
): Promise<NonNullable<T>> {
  const end = Date.now() + limitMs;
  for (;;) {
    const value = await holds();
    if (value) return value as NonNullable<T>;
    if (Date.now() > end) throw new Error(`${what}: not within ${limitMs / 1000} s`);
    await sleep(pauseMs);
  }
}
