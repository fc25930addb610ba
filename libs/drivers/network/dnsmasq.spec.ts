/** Lines that dnsmasq reads. */
import { expect, it } from 'vitest';
import { hostLine } from './dnsmasq-files.js';

it('never gives dnsmasq a name that it takes for an order or a lease time', () => {
  const at = { mac: '52:54:00:00:00:01', ip: '10.0.0.2', ip6: null };
  const line = (hostname: string | null) => hostLine({ ...at, hostname }, false);
  expect(line('web-1')).toBe('52:54:00:00:00:01,10.0.0.2,web-1\n');
  for (const word of ['ignore', 'infinite', '12', '1h', '30m', null]) {
    expect(line(word)).toBe('52:54:00:00:00:01,10.0.0.2\n');
  }
});
