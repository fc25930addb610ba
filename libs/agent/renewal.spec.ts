/** When renewal is due, and what is told of one that does not succeed. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeTestPki, type TestPki } from '#libs/agent/testing';
import type { DriverLog } from '#libs/drivers/contract';
import { type Credentials, fixedCredentials } from '#libs/pki';
import { CertificateRenewal, dueAt } from './renewal.js';

let dir: string;
let pki: TestPki;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-renewal-'));
  pki = await makeTestPki(dir);
});
afterAll(async () => {
  pki.server.close();
  pki.node.close();
  await rm(dir, { recursive: true });
});

test('it is due after two thirds of the life, at most a twentieth later', () => {
  const life = { notBefore: new Date(0), notAfter: new Date(3_000_000) };
  expect(dueAt(life, 0)).toBeCloseTo(2_000_000);
  expect(dueAt(life, 1)).toBeCloseTo(2_150_000);
});

/** A certificate of an hour of which so much is over. */
function aged(minutes: number): Credentials {
  const begin = Date.now() - minutes * 60_000;
  return { ...pki.node.current, notBefore: new Date(begin), notAfter: new Date(begin + 3_600_000) };
}

async function told(credentials: Credentials, renews: boolean, messages: number): Promise<[string, string][]> {
  const lines: [string, string][] = [];
  const note = (level: string) => (_: object, message: string) => lines.push([level, message]);
  const log: DriverLog = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };
  const targets = [`unix:${join(dir, 'nobody.sock')}`, `unix:${join(dir, 'no-one.sock')}`];
  const renewal = new CertificateRenewal({ targets, credentials: fixedCredentials(credentials), log, renews });
  renewal.start();
  await expect.poll(() => lines.length, { timeout: 60_000 }).toBeGreaterThanOrEqual(messages);
  await renewal.stop();
  return lines;
}

test('what does not succeed is told ever louder', async () => {
  expect(await told(aged(45), true, 1)).toEqual([['warn', expect.stringContaining('tried again')]]);
  expect(await told(aged(55), true, 1)).toEqual([['error', expect.stringContaining('ends soon')]]);
  expect(await told(aged(61), true, 1)).toEqual([['error', expect.stringContaining('rhyzome-agent enroll')]]);
});

test('where it is not to renew, it says so once, and nothing before it is time', async () => {
  expect(await told(aged(45), false, 1)).toEqual([['warn', expect.stringContaining('not to renew')]]);
  expect(await told(aged(10), true, 0)).toEqual([]);
});
