/** The command line as a whole: help, version, and what is no command. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { installationRoot } from './installed.js';
import { runCli } from './program.js';

async function run(...args: string[]) {
  let out = '';
  let err = '';
  const status = await runCli(args, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { status, out, err };
}

it('says its version and helps, without settings', async () => {
  const { version } = JSON.parse(readFileSync(join(installationRoot(), 'package.json'), 'utf8'));
  expect(await run('--version')).toEqual({ status: 0, out: `${version}\n`, err: '' });
  const help = await run('--help');
  expect(help.status).toBe(0);
  for (const noun of [
    'tenant',
    'quota',
    'db',
    'service',
    'node',
    'image',
    'job',
    'pki',
    'Examples:',
    'Exit status:',
    '78',
  ])
    expect(help.out).toContain(noun);
  const verbs = await run('tenant', 'update', '--help');
  expect(verbs).toMatchObject({ status: 0, out: expect.stringContaining('--clear-issuers') });
  expect(verbs.out).toContain('--json');
});

it('ends with 2 for what is no command line, in one line and where to read on', async () => {
  for (const args of [
    ['bogus'],
    ['tenant'],
    [],
    ['--bogus'],
    ['db', 'reset', '--bogus'],
    ['job', 'list', '--limit', '0'],
  ]) {
    const { status, out } = await run(...args);
    expect([args, status, out]).toEqual([args, 2, '']);
  }
  expect((await run('db', 'migrate', '--bogus')).err).toBe(
    "rhyzome: unknown option '--bogus'\n(rhyzome db migrate --help says more)\n",
  );
});

it('takes --json before and after a subcommand, also one that has its own', async () => {
  for (const args of [
    ['--json', 'pki', 'show', '/nonexistent.pem'],
    ['pki', 'show', '/nonexistent.pem', '--json'],
  ]) {
    const out = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
    try {
      expect((await run(...args)).status).toBe(78);
      expect(JSON.parse(String(out.mock.calls[0]?.[0]))).toMatchObject({ ok: false, code: 'file_missing' });
    } finally {
      out.mockRestore();
    }
  }
});
