import { expect, test } from 'vitest';
import { Doorbell } from './doorbell.js';

test('a ring that comes while nobody waits is answered by the next wait, once', async () => {
  const bell = new Doorbell();
  bell.ring();
  bell.ring();
  expect(await bell.wait(1_000)).toBe(true);
  expect(await bell.wait(1)).toBe(false);
});

test('a ring ends the wait at once', async () => {
  const bell = new Doorbell();
  const waited = bell.wait(10_000);
  bell.ring();
  expect(await waited).toBe(true);
});
