import { expect, test } from 'vitest';
import { Gathering } from './gathering.js';

/** Answers each ask with itself doubled, when it is told to. */
function doubling() {
  const rounds: number[][] = [];
  const release: (() => void)[] = [];
  const gathering = new Gathering<number, number>(async (asks) => {
    rounds.push([...asks]);
    await new Promise<void>((resolve) => release.push(resolve));
    return asks.map((ask) => 2 * ask);
  });
  return { gathering, rounds, release };
}

test('what comes in one turn is answered together, what comes meanwhile in the next', async () => {
  const { gathering, rounds, release } = doubling();
  const first = [gathering.ask(1), gathering.ask(2)];
  await expect.poll(() => rounds).toEqual([[1, 2]]);
  const second = [gathering.ask(3), gathering.ask(4)];
  release.shift()!();
  expect(await Promise.all(first)).toEqual([2, 4]);
  await expect
    .poll(() => rounds)
    .toEqual([
      [1, 2],
      [3, 4],
    ]);
  release.shift()!();
  expect(await Promise.all(second)).toEqual([6, 8]);
  const third = gathering.ask(5);
  await expect.poll(() => rounds.length).toBe(3);
  release.shift()!();
  expect(await third).toBe(10);
});

test('no more than so many go at once', async () => {
  const rounds: number[] = [];
  const gathering = new Gathering<number, number>(
    async (asks) => {
      rounds.push(asks.length);
      return asks;
    },
    { atOnce: 2 },
  );
  expect(await Promise.all([1, 2, 3, 4, 5].map((n) => gathering.ask(n)))).toEqual([1, 2, 3, 4, 5]);
  expect(rounds).toEqual([2, 2, 1]);
});

test('what goes wrong is thrown to all who asked, and the next are answered', async () => {
  let fails = true;
  const gathering = new Gathering<number, number>(async (asks) => {
    if (fails) throw new Error('no luck');
    return asks;
  });
  const asked = await Promise.allSettled([gathering.ask(1), gathering.ask(2)]);
  expect(asked.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  fails = false;
  expect(await gathering.ask(3)).toBe(3);
});

test('an answer that never comes is given up, and the next are answered', async () => {
  let isDead = true;
  const gathering = new Gathering<number, number>(
    (asks) => (isDead ? new Promise(() => undefined) : Promise.resolve(asks)),
    { limitMs: 50 },
  );
  const lost = gathering.ask(1);
  await expect(lost).rejects.toThrow('no answer within 50 ms');
  isDead = false;
  expect(await gathering.ask(2)).toBe(2);
});
