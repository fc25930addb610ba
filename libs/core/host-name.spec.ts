/** Every way to write a host is one host; what is none is told from it. */
import { describe, expect, test } from 'vitest';
import { domainOf, parseAuthority } from './host-name.js';

describe('a Host header', () => {
  test.each([
    ['api.example.org', 'api.example.org', null],
    ['ACME.Api.Example.ORG', 'acme.api.example.org', null],
    ['acme.api.example.org.', 'acme.api.example.org', null],
    ['acme.api.example.org.:8443', 'acme.api.example.org', 8443],
    ['acme.api.example.org:', 'acme.api.example.org', null],
    ['localhost:0', 'localhost', 0],
    ['rhyzome_api:8080', 'rhyzome_api', 8080],
    ['127.0.0.1:8080', '127.0.0.1', 8080],
    ['[::1]:8080', '::1', 8080],
    ['[2001:DB8::1]', '2001:db8::1', null],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example', null],
    [`${'a'.repeat(63)}.example`, `${'a'.repeat(63)}.example`, null],
  ])('%s is %s, port %s', (text, host, port) => expect(parseAuthority(text)).toEqual({ host, port }));

  test.each([
    '',
    '.',
    '..',
    'a..b',
    '.a',
    'a.b..',
    'a b',
    'a\tb',
    'a\u0000',
    'bücher.example',
    'a%2eb',
    'a,b',
    'a@b',
    'http://a',
    'a/b',
    'a?b',
    'a#b',
    'a:b',
    'a:1:2',
    'a:99999',
    'a:123456',
    '[::1',
    '::1',
    '[::g]',
    '[1.2.3.4]',
    '[fe80::1%25eth0]',
    '*.example',
    `${'a'.repeat(64)}.example`,
    `${'a.'.repeat(127)}ab`,
  ])('%j is none', (text) => expect(parseAuthority(text)).toBeUndefined());
});

describe('a domain', () => {
  test.each([
    ['api.acme.example', 'api.acme.example'],
    ['API.Acme.Example.', 'api.acme.example'],
    ['  api.acme.example  ', 'api.acme.example'],
    ['api.acme.example:443', 'api.acme.example'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['BÜCHER.example', 'xn--bcher-kva.example'],
    ['ｂｕｃｈ。example', 'buch.example'],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
  ])('%s is %s', (text, domain) => expect(domainOf(text)).toBe(domain));

  test.each([
    '',
    'localhost',
    'example.',
    '127.0.0.1',
    '0x7f.1',
    'a.1',
    '[::1]',
    '::1',
    '*.acme.example',
    'https://acme.example',
    'acme.example/api',
    'user@acme.example',
    'acme_api.example',
    '-acme.example',
    'acme-.example',
    'acme..example',
    'ac\u00adme.example',
    'ac\u200bme.example',
    'ac me.example',
    'xn--\u0000.example',
    'xn--zzzzzzzz-.example',
    `${'a'.repeat(64)}.example`,
    'a'.repeat(10_000),
  ])('%j is none', (text) => expect(domainOf(text)).toBeUndefined());
});
