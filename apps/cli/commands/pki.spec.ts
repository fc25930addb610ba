/** The command as an administrator types it: what it prints, in words and in JSON, and how it ends. */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Context } from '../context.js';
import { pkiCommand } from './pki.js';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-cli-pki-'));
});
afterEach(() => rm(dir, { recursive: true }));

async function pki(...args: string[]) {
  const out = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  const err = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const before = process.exitCode;
  process.exitCode = undefined;
  try {
    const command = pkiCommand(new Context({ out: () => {}, err: () => {} }, () => ({}))).exitOverride();
    for (const sub of command.commands) sub.exitOverride();
    await command.parseAsync(args, { from: 'user' });
    const text = (spy: typeof out) => spy.mock.calls.map(([chunk]) => String(chunk)).join('');
    return { out: text(out), err: text(err), code: process.exitCode };
  } finally {
    process.exitCode = before;
    out.mockRestore();
    err.mockRestore();
  }
}

test('from nothing to a verified server', async () => {
  expect((await pki('init', '--dir', dir)).out).toContain('Made the CA');
  expect((await pki('init', '--dir', dir)).out).toContain('Found the CA');
  const issued = await pki(
    'issue',
    '--dir',
    dir,
    '--type',
    'server',
    '--name',
    'grpc-1',
    '--dns',
    'localhost',
    '--ip',
    '127.0.0.1',
    '--json',
  );
  const { ca, cert, key, identity } = JSON.parse(issued.out);
  expect(identity).toBe('spiffe://rhyzome.internal/server/grpc-1');
  expect((await pki('verify', '--ca', ca, '--cert', cert, '--key', key)).out).toContain(
    'Good: spiffe://rhyzome.internal/server/grpc-1, 364 days left',
  );
  expect(JSON.parse((await pki('show', cert, '--json')).out)).toMatchObject([
    { dns: ['localhost'], ip: ['127.0.0.1'], ca: false },
  ]);
  expect((await pki('show', cert)).out).toContain('identity    spiffe://rhyzome.internal/server/grpc-1');
});

test('what cannot be used is said with the file, and ends with 78', async () => {
  await pki('init', '--dir', dir);
  const { ca, cert, key } = JSON.parse(
    (await pki('issue', '--dir', dir, '--type', 'node', '--name', 'n', '--json')).out,
  );
  await chmod(key, 0o644);
  const words = await pki('verify', '--ca', ca, '--cert', cert, '--key', key);
  expect(words).toMatchObject({ code: 78, out: '' });
  expect(words.err).toContain(`chmod 600 ${key}`);
  const json = await pki('verify', '--ca', ca, '--cert', cert, '--key', key, '--json');
  expect(JSON.parse(json.out)).toMatchObject({ ok: false, code: 'key_exposed', file: key });
  expect((await pki('issue', '--dir', dir, '--type', 'node', '--name', 'n')).code).toBe(78);
  await expect(pki('issue', '--dir', dir, '--type', 'king', '--name', 'n')).rejects.toMatchObject({
    code: 'commander.invalidArgument',
  });
});
