/** Which addresses are open: each registry's special ranges, names that resolve to them, exceptions. */
import { describe, expect, it, test } from 'vitest';
import { type Resolve, SourceGuard, sourceUrlProblem } from './index.js';

const resolvesTo =
  (...addresses: string[]): Resolve =>
  async () =>
    addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));

const codeOf = (guard: SourceGuard, url: string) =>
  guard.addressesOf(new URL(url)).then(
    () => 'open',
    (error: { code: string }) => error.code,
  );

const closed = {
  'this host': '0.0.0.0',
  loopback: '127.0.0.1',
  'loopback, another': '127.255.255.254',
  'private 10': '10.1.2.3',
  'private 172': '172.31.0.1',
  'private 192': '192.168.1.1',
  'link-local, metadata': '169.254.169.254',
  'carrier-grade NAT': '100.64.0.1',
  benchmarking: '198.18.0.1',
  documentation: '203.0.113.7',
  'protocol assignments': '192.0.0.8',
  '6to4 relays': '192.88.99.1',
  multicast: '224.0.0.1',
  reserved: '240.0.0.1',
  broadcast: '255.255.255.255',
  'IPv6 unspecified': '::',
  'IPv6 loopback': '::1',
  'IPv6 link-local': 'fe80::1',
  'IPv6 site-local': 'fec0::1',
  'unique local': 'fd00::1',
  'IPv6 multicast': 'ff02::1',
  'v4-mapped': '::ffff:127.0.0.1',
  'v4-mapped of a global one': '::ffff:8.8.8.8',
  'v4-compatible': '::7f00:1',
  NAT64: '64:ff9b::7f00:1',
  'local NAT64': '64:ff9b:1::7f00:1',
  '6to4': '2002:7f00:1::',
  teredo: '2001::1',
  'IPv6 documentation': '2001:db8::1',
  'IPv6 discard': '100::1',
  'IPv6 not given out': '4000::1',
  'no address': 'localhost',
};

describe('an address', () => {
  const guard = new SourceGuard({ denied: ['193.0.0.0/21', '2a00:1450::/32'] });

  test.each(Object.entries(closed))('%s is closed: %s', (_, address) => {
    expect(guard.isOpen(address)).toBe(false);
  });

  test.each(['8.8.8.8', '193.0.8.1', '2606:4700::1111', '2a01:4f8::1'])('of the open world is open: %s', (address) => {
    expect(guard.isOpen(address)).toBe(true);
  });

  it('of the installation’s own is closed, however global', () => {
    expect(guard.isOpen('193.0.7.255')).toBe(false);
    expect(guard.isOpen('2a00:1450:4001::1')).toBe(false);
  });
});

describe('a URL', () => {
  it('is refused for any spelling of a closed address', async () => {
    const guard = new SourceGuard();
    const spellings = [
      'http://127.0.0.1/',
      'http://2130706433/',
      'http://0x7f.1/',
      'http://0177.0.0.1/',
      'http://127.1/',
      'http://[::1]/',
      'http://[::ffff:7f00:1]/',
      'http://[fe80::1]/',
      'http://169.254.169.254/latest/meta-data/',
    ];
    for (const url of spellings) expect(await codeOf(guard, url), url).toBe('source_refused');
  });

  it('is refused where its name has one closed address among open ones', async () => {
    expect(await codeOf(new SourceGuard({}, resolvesTo('8.8.8.8')), 'http://a.example/')).toBe('open');
    const mixed = new SourceGuard({}, resolvesTo('8.8.8.8', '10.0.0.1'));
    expect(await codeOf(mixed, 'http://a.example/')).toBe('source_refused');
    expect(await codeOf(new SourceGuard({}, resolvesTo('::1')), 'https://localhost/')).toBe('source_refused');
  });

  it('has the port of its scheme, but at a mirror that is allowed', async () => {
    const open = new SourceGuard({ allowed: ['10.9.0.0/16'] }, resolvesTo('8.8.8.8'));
    expect(await codeOf(open, 'http://a.example:80/')).toBe('open');
    expect(await codeOf(open, 'https://a.example:443/')).toBe('open');
    for (const port of [22, 25, 443, 5432, 8080]) {
      expect(await codeOf(open, `http://a.example:${port}/`)).toBe('source_refused');
    }
    const mirror = new SourceGuard({ allowed: ['10.9.0.0/16'], denied: ['10.0.0.0/8'] }, resolvesTo('10.9.1.1'));
    expect(await codeOf(mirror, 'http://mirror.internal:8080/')).toBe('open');
    const half = new SourceGuard({ allowed: ['10.9.0.0/16'] }, resolvesTo('10.9.1.1', '10.8.1.1'));
    expect(await codeOf(half, 'http://mirror.internal:8080/')).toBe('source_refused');
  });

  it('that names nobody is unavailable', async () => {
    const unknown = new SourceGuard({}, async () => {
      throw new Error('ENOTFOUND');
    });
    expect(await codeOf(unknown, 'http://nobody.example/')).toBe('source_unavailable');
    expect(await codeOf(new SourceGuard({}, resolvesTo()), 'http://nobody.example/')).toBe('source_unavailable');
  });

  test.each([
    'ftp://a.example/x',
    'file:///etc/passwd',
    'a.example/x',
    'http://u:p@a.example/',
    'http://u@a.example/',
    'http://',
    'http://a.example/#x',
    `http://a.example/${'x'.repeat(2000)}`,
  ])('that is none to fetch is told: %s', (url) => {
    expect(sourceUrlProblem(url)).toBeTypeOf('string');
  });

  it('that is one has no problem', () => {
    expect(sourceUrlProblem('https://images.example/debian-12.qcow2?sig=a%2Fb')).toBeUndefined();
  });
});
