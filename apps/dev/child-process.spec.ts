/** Children of the supervisor, as real processes: started again, given up, ended in order and with their parent. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { processIdentity, waitForEnd } from '#libs/devdb';
import { type Child, keepAlive } from './child-process.js';

let folder: string;
let pids: number[];
let said: string[];
let child: Child | undefined;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rhyzome-child-'));
  pids = [];
  said = [];
});
afterEach(async () => {
  await child?.stop();
  rmSync(folder, { recursive: true });
});

function start(program: string): Child {
  writeFileSync(join(folder, 'program.mjs'), program);
  child = keepAlive({
    name: 'program',
    argv: [process.execPath, join(folder, 'program.mjs')],
    cwd: folder,
    logFolder: folder,
    onPid: (pid) => pids.push(pid),
    say: (message) => said.push(message),
  });
  return child;
}

describe('keepAlive', () => {
  it('starts a child that was killed again, and tells its new number', async () => {
    start("console.log('hello'); setInterval(() => {}, 1000);");
    process.kill(pids[0] ?? 0, 'SIGKILL');
    await vi.waitFor(() => expect(pids).toHaveLength(2), 5000);
    expect(said[0]).toContain('program ended (SIGKILL)');
    await vi.waitFor(() => expect(readFileSync(join(folder, 'program.log'), 'utf8')).toContain('hello'), 5000);
    await child?.stop();
    expect(processIdentity(pids[1] ?? 0)).toBeUndefined();
    expect(pids).toHaveLength(2);
  });

  it('gives up during the start on one that cannot run, with its last words', async () => {
    await expect(start("console.error('no way'); process.exit(78);").hopeless).rejects.toThrow('no way');
    expect(said[0]).toContain('status 78');
  });

  it('ends with its parent, however that ends', async () => {
    const loaded = join(import.meta.dirname, 'end-with-parent.ts');
    writeFileSync(join(folder, 'grandchild.mjs'), 'setInterval(() => {}, 1000);');
    const spawnIt = `spawn(process.execPath, ['--import', ${JSON.stringify(loaded)}, 'grandchild.mjs'], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'], detached: true })`;
    start(`import { spawn } from 'node:child_process'; console.log(${spawnIt}.pid);`);
    let pid = 0;
    await vi.waitFor(() => {
      pid = Number(readFileSync(join(folder, 'program.log'), 'utf8').split('\n')[0]);
      expect(pid).toBeGreaterThan(0);
    }, 5000);
    // Let it load what ends it before its parent goes.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const grandchild = processIdentity(pid);
    process.kill(pids.at(-1) ?? 0, 'SIGKILL');
    expect(grandchild && (await waitForEnd(grandchild, 5000))).toBe(true);
  });
});
