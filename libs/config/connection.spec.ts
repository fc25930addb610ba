/** The examples of PostgreSQL's documentation, section 34.1.1, and what must not be understood or leaked. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { describeConnection, parseConnection } from './connection.js';

describe('parseConnection', () => {
  it('reads a keyword string', () => {
    expect(parseConnection('dbname=rhyzome host=/var/run/postgresql sslmode=disable user=rz')).toEqual({
      host: '/var/run/postgresql',
      port: 5432,
      user: 'rz',
      database: 'rhyzome',
      ssl: false,
      keepAlive: true,
    });
  });

  it('takes blanks around =, quotes and backslashes', () => {
    const read = parseConnection(String.raw`host = 127.0.0.1 user='o\'neil' password='a b\\c' dbname=x\ y port=5433`);
    expect(read).toMatchObject({ user: "o'neil", password: 'a b\\c', database: 'x y', port: 5433, host: '127.0.0.1' });
  });

  it.each([
    ['postgresql://', {}],
    ['postgresql://localhost', { host: 'localhost' }],
    ['postgresql://localhost:5433', { host: 'localhost', port: 5433 }],
    ['postgres://localhost/mydb', { host: 'localhost', database: 'mydb' }],
    ['postgresql://user:secret@localhost', { user: 'user', password: 'secret', database: 'user' }],
    ['postgresql://[2001:db8::1234]/database?sslmode=disable', { host: '2001:db8::1234', database: 'database' }],
    ['postgresql:///dbname?host=/var/lib/postgresql', { host: '/var/lib/postgresql', database: 'dbname' }],
    ['postgresql://%2Fvar%2Flib%2Fpostgresql/dbname', { host: '/var/lib/postgresql', database: 'dbname' }],
    [
      'postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp&options=-c%20geqo%3Doff',
      { connectionTimeoutMillis: 10_000, application_name: 'myapp', options: '-c geqo=off' },
    ],
  ])('reads %s', (url, expected) => {
    expect(parseConnection(url)).toMatchObject(expected);
  });

  it('falls back on the defaults of libpq', () => {
    const { username } = userInfo();
    expect(parseConnection('sslmode=prefer')).toMatchObject({
      user: username,
      database: username,
      host: '/var/run/postgresql',
    });
  });

  it('never falls back to clear text for another machine', () => {
    expect(parseConnection('host=db.example dbname=x').ssl).toEqual({ rejectUnauthorized: false });
    expect(parseConnection('host=db.example sslmode=verify-full').ssl).toEqual({ rejectUnauthorized: true });
    const chainOnly = parseConnection('host=db.example sslmode=verify-ca').ssl;
    expect(chainOnly).toMatchObject({ rejectUnauthorized: true, checkServerIdentity: expect.any(Function) });
    expect(parseConnection('host=localhost').ssl).toBe(false);
  });

  it('verifies the chain for `require` once a root certificate is named', () => {
    const folder = mkdtempSync(join(tmpdir(), 'rhyzome-config-'));
    try {
      writeFileSync(join(folder, 'ca.pem'), 'PEM');
      const { ssl } = parseConnection('host=db.example sslmode=require sslrootcert=ca.pem', folder);
      expect(ssl).toMatchObject({ rejectUnauthorized: true, ca: 'PEM' });
      expect(() => parseConnection('host=db.example sslmode=require sslrootcert=none.pem', folder)).toThrow('ENOENT');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it.each([
    'hunter2',
    'password=correct hunter2 dbname=x',
    'password=correct hunter2=horse',
    "password='hunter2",
    'postgresql://u:hunter2@x@h/db',
    'postgresql://u:hunter2%zz@h/db',
    'port=hunter2',
    'sslmode=hunter2',
    'host=a,b password=hunter2',
    'service=hunter2',
    'postgresql://h/db?hunter2=1',
    '',
  ])('refuses %s without quoting it', (connection) => {
    let message = '';
    try {
      parseConnection(connection);
    } catch (error) {
      message = String(error);
    }
    expect(message).toMatch(/^ConnectionStringError: ./);
    expect(message).not.toContain('hunter2');
  });

  it('gives back every password, whichever way it is written', () => {
    const field = fc.string({ minLength: 1, unit: 'grapheme' });
    fc.assert(
      fc.property(field, field, (user, password) => {
        const quoted = (text: string) => `'${text.replaceAll(/[\\']/g, '\\$&')}'`;
        expect(parseConnection(`user=${quoted(user)} password=${quoted(password)}`)).toMatchObject({ user, password });
        const url = `postgresql://${encodeURIComponent(user)}:${encodeURIComponent(password)}@h/d`;
        expect(parseConnection(url)).toMatchObject({ user, password, host: 'h', database: 'd' });
      }),
      { numRuns: 200 },
    );
  });
});

describe('describeConnection', () => {
  it('keeps the password to itself', () => {
    expect(describeConnection(parseConnection('postgresql://u:hunter2@db.example:5433/d'))).toBe(
      'database d as u at db.example, port 5433',
    );
  });
});
