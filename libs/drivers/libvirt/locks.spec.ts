import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { Locks } from './locks.js';

const never = new AbortController().signal;

it('lets one at a time have a key, in the order of asking, and others at once', async () => {
  const locks = new Locks();
  const events: string[] = [];
  const work = (name: string, ms: number, ...keys: string[]) =>
    locks.hold(keys, never, async () => {
      events.push(`${name}+`);
      await sleep(ms);
      events.push(`${name}-`);
    });
  await Promise.all([work('a', 30, 'x', 'y'), work('b', 1, 'y', 'z'), work('c', 1, 'z'), work('d', 1, 'w')]);
  expect(events.indexOf('d-')).toBeLessThan(events.indexOf('a-'));
  expect(events.filter((event) => !event.startsWith('d'))).toEqual(['a+', 'a-', 'b+', 'b-', 'c+', 'c-']);
});

it('lets go after a failure, and whoever gives up waiting does not let others through', async () => {
  const locks = new Locks();
  await expect(locks.hold(['x'], never, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  let ended = false;
  const first = locks.hold(['x'], never, async () => {
    await sleep(30);
    ended = true;
  });
  const impatient = new AbortController();
  const second = locks.hold(['x'], impatient.signal, async () => 'second');
  const third = locks.hold(['x'], never, async () => ended);
  impatient.abort(new Error('gave up'));
  await expect(second).rejects.toThrow('gave up');
  expect(await third).toBe(true);
  await first;
});
