/** The command line of `npm start`. */
import { describe, expect, it } from 'vitest';
import { parseOptions, UsageError } from './options.js';

const parse = (...argv: string[]) => parseOptions(argv, '/checkout');

describe('parseOptions', () => {
  it('has defaults for everything', () => {
    expect(parse()).toEqual({
      help: false,
      data: '/checkout/.rhyzome/data',
      ports: {},
      driver: undefined,
      tenants: ['acme', 'globex'],
      nodesAt: undefined,
    });
  });

  it('takes what is given', () => {
    const argv =
      '--data /d --api-port 0 --grpc-port 7000 --issuer-port=7001 --driver sim --tenants a,b,a --nodes-at 127.0.0.1'.split(
        ' ',
      );
    expect(parse(...argv)).toMatchObject({
      data: '/d',
      ports: { api: 0, grpc: 7000, issuer: 7001 },
      driver: 'sim',
      tenants: ['a', 'b'],
      nodesAt: '127.0.0.1',
    });
  });

  it.each([
    [['--dta', 'x'], '--dta'],
    [['x'], 'x'],
    [['--data'], '--data'],
    [['--api-port', '65536'], '--api-port'],
    [['--api-port', '-1'], '--api-port'],
    [['--driver', 'xen'], '--driver'],
    [['--tenants', 'Acme'], '--tenants'],
    [['--tenants', 'a,,b'], '--tenants'],
    [['--tenants', 'system'], '--tenants'],
    [['--nodes-at', 'localhost'], '--nodes-at'],
    [['--nodes-at', '192.0.2.1'], '--nodes-at'],
  ])('refuses %j and names it', (argv, named) => {
    expect(() => parse(...argv)).toThrow(UsageError);
    expect(() => parse(...argv)).toThrow(named);
  });
});
