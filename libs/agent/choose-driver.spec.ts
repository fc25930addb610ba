import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { DriverContext } from '#libs/drivers/contract';
import { chooseDriver } from './choose-driver.js';

let stateDir: string;
let ctx: DriverContext;
const nowhere = { driver: 'auto', uri: 'qemu+unix:///system?socket=/nonexistent/libvirt-sock' } as const;

beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), 'rhyzome-choice-'));
  const log = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
  ctx = { installation: '0190b5a0-0000-7000-8000-000000000000', stateDir, log } as unknown as DriverContext;
});
afterEach(() => rmSync(stateDir, { recursive: true }));

it('simulates machines where libvirt does not work, and says so', async () => {
  expect((await chooseDriver(ctx, nowhere)).name).toBe('sim');
  expect(ctx.log.warn).toHaveBeenCalledWith(
    { reason: expect.any(String) },
    expect.stringContaining('the machines are simulated'),
  );
});

it('does not where it has worked before: the machines are real', async () => {
  writeFileSync(join(stateDir, 'driver.json'), '{"driver":"libvirt"}');
  await expect(chooseDriver(ctx, nowhere)).rejects.toThrow();
});
