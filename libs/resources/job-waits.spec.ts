import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { JOB_TENANT, type JobLab, openJobLab } from '#libs/testing';
import { JobWaits, MAX_WAITING } from './job-waits.js';

let lab: JobLab;
let statements = 0;
beforeAll(async () => {
  lab = await openJobLab(() => {
    statements += 1;
  });
});
afterAll(() => lab?.close());

const waits = () => new JobWaits(lab.db, lab.listener, new AbortController().signal);

test('many who wait are told of the end, and look together', async () => {
  const id = await lab.enqueue(async () => undefined);
  const waiting = waits();
  statements = 0;
  const ends = Array.from({ length: 300 }, () => waiting.wait(JOB_TENANT, id, 20_000));
  await expect.poll(() => statements).toBeGreaterThan(0);
  expect(statements).toBeLessThan(5);
  lab.startRunner();
  expect(new Set(await Promise.all(ends))).toEqual(new Set([true]));
  await lab.stopRunners();
});

test('nobody waits longer than he asked for, and for what there is not', async () => {
  const id = await lab.enqueue(async () => undefined);
  expect(await waits().wait(JOB_TENANT, id, 50)).toBe(false);
  expect(await waits().wait(JOB_TENANT, newId(), 10_000)).toBe(true);
  expect(await waits().wait('globex', id, 10_000)).toBe(true);
});

test('whoever comes when too many of a tenant wait is answered at once', async () => {
  const id = await lab.enqueue(async () => undefined);
  const waiting = waits();
  const gone = new AbortController();
  const ends = Array.from({ length: MAX_WAITING }, () => waiting.wait(JOB_TENANT, id, 30_000, gone.signal));
  const began = Date.now();
  expect(await waiting.wait(JOB_TENANT, id, 30_000)).toBe(false);
  expect(Date.now() - began).toBeLessThan(5_000);
  gone.abort();
  await Promise.all(ends);
  const last = new AbortController();
  const one = waiting.wait(JOB_TENANT, id, 30_000, last.signal);
  await new Promise((resolve) => setTimeout(resolve, 200));
  last.abort();
  expect(await one).toBe(false);
});
