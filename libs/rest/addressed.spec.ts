/** Who is believed of where a request came from: the connection, and trusted proxies as far as they saw it themselves. */
import type { IncomingMessage } from 'node:http';
import { describe, expect, test } from 'vitest';
import { Addressing } from './addressed.js';

const owners: Record<string, string> = { 'api.acme.example': 'acme' };
const addressing = new Addressing(
  (host) => (owners[host] ? { tenantId: owners[host]! } : undefined),
  ['10.0.0.0/8', '2001:db8:1::/48', '127.0.0.1/32'],
);

function request(peer: string, headers: Record<string, string | string[]>, version = '1.1'): IncomingMessage {
  const rawHeaders = Object.entries(headers).flatMap(([name, values]) => [values].flat().flatMap((v) => [name, v]));
  const joined = Object.entries(headers).map(([name, values]) => {
    return [name.toLowerCase(), name.toLowerCase() === 'host' ? [values].flat()[0] : [values].flat().join(', ')];
  });
  const [httpVersionMajor, httpVersionMinor] = version.split('.').map(Number);
  const message = { rawHeaders, headers: Object.fromEntries(joined), httpVersionMajor, httpVersionMinor };
  return { ...message, socket: { remoteAddress: peer } } as unknown as IncomingMessage;
}

const of = (peer: string, headers: Record<string, string | string[]> = {}) =>
  addressing.of(request(peer, { host: 'api.example.org', ...headers }));
const refused = (peer: string, headers: Record<string, string | string[]>) =>
  expect(() => of(peer, headers)).toThrow(expect.objectContaining({ code: 'malformed_request' }));

const proxy = '10.0.0.1';
const stranger = '192.0.2.7';

describe('a stranger', () => {
  test('is believed its Host and nothing else', () => {
    const lies = {
      forwarded: 'for=1.1.1.1;host=api.acme.example;proto=https',
      'x-forwarded-for': '1.1.1.1',
      'x-forwarded-host': 'api.acme.example',
      'x-forwarded-proto': 'https',
    };
    const plain = { client: stranger, scheme: 'http', host: 'api.example.org', owner: undefined };
    expect(of(stranger, lies)).toMatchObject(plain);
    expect(of(stranger, { forwarded: '"' })).toMatchObject(plain);
    expect(new Addressing(() => undefined).of(request(proxy, { host: 'a', ...lies }))).toMatchObject({
      client: proxy,
      host: 'a',
    });
  });

  test('is told whose host it asked, however it writes it', () => {
    for (const host of ['api.acme.example', 'API.Acme.example.:8443'])
      expect(of(stranger, { host })).toMatchObject({ owner: { tenantId: 'acme' }, authority: host });
    expect(of('::ffff:192.0.2.7').client).toBe(stranger);
  });

  test('must send one Host, which is one', () => {
    for (const host of ['', 'a b', 'a\u0000', 'bücher.example', 'a@b', 'a/b', 'http://a', 'a, b', ['a', 'a']])
      refused(stranger, { host });
    const none = (version: string) => () => addressing.of(request(stranger, {}, version));
    expect(none('1.1')).toThrow('no Host');
    expect(none('1.0')()).toMatchObject({ host: undefined, owner: undefined, authority: undefined });
  });
});

describe('a trusted proxy', () => {
  test('says who asked for what, by Forwarded or by X-Forwarded', () => {
    const told = { client: stranger, scheme: 'https', host: 'api.acme.example', owner: { tenantId: 'acme' } };
    const x = { 'x-forwarded-for': stranger, 'x-forwarded-host': 'api.acme.example', 'x-forwarded-proto': 'https' };
    expect(of(proxy, x)).toMatchObject(told);
    for (const forwarded of [
      `for=${stranger};host=api.acme.example;proto=https`,
      `For="${stranger}:4711"; Host="api.acme.example" ;PROTO=HTTPS`,
      `by=_x;for=${stranger};host=api.acme.example;proto=https;ext="a,b;\\"c"`,
    ])
      expect(of(proxy, { forwarded }), forwarded).toMatchObject(told);
    expect(of(proxy, { ...x, forwarded: `for=${stranger};proto=https` })).toMatchObject(told);
    expect(of(proxy)).toMatchObject({ client: proxy, host: 'api.example.org', scheme: 'http' });
  });

  test('is believed as far as proxies have seen it themselves: what clients put before is not', () => {
    const chain = (text: string) => of(proxy, { 'x-forwarded-for': text }).client;
    expect(chain(`6.6.6.6, ${stranger}`)).toBe(stranger);
    expect(chain(`6.6.6.6, ${stranger}, 10.0.0.2`)).toBe(stranger);
    expect(chain('10.0.0.3, 10.0.0.2')).toBe('10.0.0.3');
    expect(chain(`${stranger}, unknown`)).toBe(proxy);
    expect(chain(`${stranger}, nonsense, 10.0.0.2`)).toBe('10.0.0.2');
    expect(chain('2001:DB8:2::1, 2001:db8:1::9')).toBe('2001:db8:2::1');
    expect(chain('[2001:db8:2::1]:4711')).toBe('2001:db8:2::1');
    expect(chain(`::ffff:${stranger}`)).toBe(stranger);
    expect(chain('0x7f.1')).toBe(proxy);
    const forwarded = `for=6.6.6.6;host=liar.example, for=${stranger};host=api.acme.example, for=10.0.0.2;host=inner`;
    expect(of(proxy, { forwarded })).toMatchObject({ client: stranger, host: 'api.acme.example' });
    expect(of(proxy, { forwarded: 'for="_hidden";host=api.acme.example' })).toMatchObject({
      client: proxy,
      host: 'api.acme.example',
    });
    const hosts = { 'x-forwarded-for': `6.6.6.6, ${stranger}`, 'x-forwarded-host': 'liar.example, api.acme.example' };
    expect(of(proxy, hosts).host).toBe('api.acme.example');
    expect(of(proxy, { 'x-forwarded-host': 'liar.example, api.acme.example' }).host).toBe('api.acme.example');
    expect(of(proxy, { 'x-forwarded-for': ['6.6.6.6', stranger] }).client).toBe(stranger);
  });

  test('that passes on what contradicts it is refused', () => {
    refused(proxy, { 'x-forwarded-for': stranger, forwarded: 'for=6.6.6.6' });
    refused(proxy, { 'x-forwarded-host': 'a.example', forwarded: `for=${stranger};host=b.example` });
    refused(proxy, { 'x-forwarded-host': 'a b' });
    refused(proxy, { 'x-forwarded-for': Array<string>(51).fill('10.0.0.2') });
    refused(proxy, { forwarded: Array<string>(51).fill('for=10.0.0.2') });
    for (const forwarded of ['for', 'for=', 'for=a b', 'for="a', 'for=[::1]', 'for=1.1.1.1 host=a', '=a'])
      refused(proxy, { forwarded });
    for (const forwarded of ['', ';', ',', 'for=1.1.1.1;', ' , for=1.1.1.1 , '])
      expect(of(proxy, { forwarded }).host, forwarded).toBe('api.example.org');
  });

  test('is read in linear time', () => {
    const long = ' '.repeat(50_000);
    const before = performance.now();
    for (const forwarded of [`for=a,${long}x`, `for="${'\\"'.repeat(7_000)}`, `${'a;'.repeat(7_000)}`, `for=${long}`])
      refused(proxy, { forwarded });
    expect(performance.now() - before).toBeLessThan(1_000);
  });
});
