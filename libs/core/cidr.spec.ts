/** IPv4 arithmetic, held against ipaddr.js and against counting by hand. */
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { describe, expect, test } from 'vitest';
import {
  broadcastOf,
  contains,
  formatCidr4,
  formatIpv4,
  hostCount,
  isIpv4,
  isPrivate,
  normalizeMac,
  parseCidr4,
  parseIpv4,
} from '#libs/core';

const address = fc.integer({ min: 0, max: 0xffffffff });
const prefix = fc.integer({ min: 0, max: 32 });

describe('IPv4', () => {
  test('what is formatted is parsed back, and is what ipaddr.js says', () => {
    fc.assert(
      fc.property(address, (value) => {
        const text = formatIpv4(value);
        expect(parseIpv4(text)).toBe(value);
        expect(ipaddr.IPv4.parse(text).toByteArray()).toEqual([24, 16, 8, 0].map((shift) => (value >>> shift) & 255));
      }),
    );
  });

  test('nothing but four plain decimal octets is an address', () => {
    for (const text of [
      '',
      '1.2.3',
      '1.2.3.4.5',
      '01.2.3.4',
      '1.2.3.256',
      '1.2.3.-4',
      ' 1.2.3.4',
      '1.2.3.4\n',
      '0x1.2.3.4',
      '1.2.3.4/32',
      '１.2.3.4',
      '::1',
    ]) {
      expect(isIpv4(text), text).toBe(false);
      expect(parseIpv4(text), text).toBeUndefined();
    }
    fc.assert(
      fc.property(
        fc.string(),
        (text) => isIpv4(text) === (ipaddr.IPv4.isValidFourPartDecimal(text) && !/(^|\.)0\d/.test(text)),
      ),
    );
  });

  test('a CIDR holds exactly the addresses with its first bits', () => {
    fc.assert(
      fc.property(address, prefix, address, (value, bits, other) => {
        const cidr = parseCidr4(`${formatIpv4(value)}/${bits}`)!;
        expect(cidr.hostBits).toBe(cidr.network !== value);
        expect(formatCidr4(cidr)).toBe(`${formatIpv4(cidr.network)}/${bits}`);
        const size = 2 ** (32 - bits);
        expect(cidr.network % size).toBe(0);
        expect(broadcastOf(cidr)).toBe(cidr.network + size - 1);
        expect(hostCount(cidr)).toBe(Math.max(0, size - 2));
        expect(contains(cidr, other)).toBe(
          ipaddr.IPv4.parse(formatIpv4(other)).match(ipaddr.IPv4.parse(formatIpv4(cidr.network)), bits),
        );
        expect(contains(cidr, broadcastOf(cidr))).toBe(true);
      }),
    );
  });

  test('is private only when all of it is', () => {
    fc.assert(
      fc.property(address, fc.integer({ min: 8, max: 32 }), (value, bits) => {
        const cidr = parseCidr4(`${formatIpv4(value)}/${bits}`)!;
        const both = [cidr.network, broadcastOf(cidr)].map((end) => ipaddr.IPv4.parse(formatIpv4(end)).range());
        expect(isPrivate(cidr)).toBe(both.every((range) => range === 'private'));
      }),
    );
    expect(isPrivate(parseCidr4('10.0.0.0/7')!)).toBe(false);
    expect(isPrivate(parseCidr4('172.16.0.0/11')!)).toBe(false);
    expect(isPrivate(parseCidr4('0.0.0.0/0')!)).toBe(false);
  });

  test.each([['1.2.3.4'], ['1.2.3.4/33'], ['1.2.3.4/-1'], ['1.2.3.4/08'], ['1.2.3.4/8 '], ['1.2.3/8'], ['/8']])(
    'refuses %j as a CIDR',
    (text) => expect(parseCidr4(text)).toBeUndefined(),
  );
});

describe('MAC addresses', () => {
  test('come in lower case with colons, and are unicast', () => {
    expect(normalizeMac('52-54-00-AB-cd-EF')).toBe('52:54:00:ab:cd:ef');
    for (const text of [
      '',
      '00:00:00:00:00:00',
      'ff:ff:ff:ff:ff:ff',
      '01:00:5e:00:00:01',
      '52:54:00:ab:cd',
      '5254.00ab.cdef',
    ]) {
      expect(normalizeMac(text), text).toBeUndefined();
    }
  });
});
