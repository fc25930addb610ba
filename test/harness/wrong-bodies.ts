/**
 * What can be wrong with the fields of a body: for each field the values that must be refused, told at that field's
 * pointer. Built once, used for creates and for patches.
 */

/** [field, value, where the refusal must point; the field itself unless given]. */
export type WrongField = [field: string, value: unknown, pointer?: string];

const long = (length: number) => 'x'.repeat(length);
const uuid = '0193f9a0-0000-7000-8000-000000000000';

/** The fields that every resource has. `null` in a patch means: back to the default. */
export const wrongCommon: WrongField[] = [
  ...[5, true, [], {}, '', long(64), 'UPPER', '1web', '-web', 'web-', 'we b', 'wéb', 'we\u0000b', 'web\n', uuid].map(
    (value): WrongField => ['name', value],
  ),
  ...['x', 5, true, [], [['a', 'b']]].map((value): WrongField => ['tags', value]),
  ['tags', { '': 'x' }, '/tags/'],
  ['tags', { '-a': 'x' }, '/tags/-a'],
  ['tags', { 'a b': 'x' }, '/tags/a b'],
  ['tags', { 'a~b/c': 'x' }, '/tags/a~0b~1c'],
  ['tags', { [long(64)]: 'x' }, `/tags/${long(64)}`],
  ['tags', { a: 5 }, '/tags/a'],
  ['tags', { a: {} }, '/tags/a'],
  ['tags', { a: long(256) }, '/tags/a'],
  ['tags', { a: 'x\ny' }, '/tags/a'],
  ['tags', { a: '\u0000' }, '/tags/a'],
  ['tags', { a: '\ud800' }, '/tags/a'],
  ['tags', Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`k${n}`, 'v']))],
  ...['true', 1, [], {}].map((value): WrongField => ['deletionProtection', value]),
  ...['foo', 'tenant', 'tenantId', 'job', 'constructor', 'hasOwnProperty', ''].map(
    (field): WrongField => [field, 'x', `/${field}`],
  ),
  ['a/b~c', 'x', '/a~1b~0c'],
];

export const readOnlyCommon = [
  'id',
  'kind',
  'state',
  'conditions',
  'generation',
  'observedGeneration',
  'createdAt',
  'updatedAt',
  'createdBy',
];

export const wrongNetwork: WrongField[] = [
  ...[5, true, [], {}, ['10.50.0.0/24'], '', 'x', '10.50.0.0', '/24', '10.50.0.0/', '10.50.0.0/33', '10.50.0.0/-1'].map(
    (value): WrongField => ['subnet', value],
  ),
  ...['10.50.0.1/24', '8.8.8.0/24', '172.32.0.0/16', '10.0.0.0/7', '10.50.0.0/30', '0.0.0.0/0', 'fd00::1/64'].map(
    (value): WrongField => ['subnet', value],
  ),
  ...['10.50.0.0/24 ', '010.50.0.0/24', '10.50.0/24', '10.50.0.0/024', '٣.0.0.0/8', long(10_000)].map(
    (value): WrongField => ['subnet', value],
  ),
  ...[5, [], {}, '', 'x', 'fd00::1', '10.50.0.1/24', '10.51.0.1', '10.50.0.0', '10.50.0.255', '256.1.1.1'].map(
    (value): WrongField => ['gateway', value],
  ),
  ...['x', '10.50.0.1', 5, {}].map((value): WrongField => ['dns', value]),
  ['dns', ['x'], '/dns/0'],
  ['dns', ['10.50.0.1', 5], '/dns/1'],
  ['dns', [null], '/dns/0'],
  ['dns', ['1.1.1.1', '1.1.1.2', '1.1.1.3', '1.1.1.4', '1.1.1.5']],
  ...['', 'A', 'a_b', '-a', 'a-', 'a..b', 'a.', 'a b', `${long(64)}.b`, `${'a.'.repeat(126)}ab`, 5, []].map(
    (value): WrongField => ['domain', value],
  ),
  ...['1450', 575, 9001, 1450.5, -1, 0, 1e300, true, []].map((value): WrongField => ['mtu', value]),
  ['subnet6', 'fd00::1/64'],
];

export const wrongInstance: WrongField[] = [
  ...[5, [], {}, '', 'UPPER', long(64), uuid, 'nowhere', 'a b', '../tiny', '\u0000'].map(
    (value): WrongField => ['image', value],
  ),
  ...['1', 0, -1, 257, 1.5, 1e300, true, [], {}].map((value): WrongField => ['vcpus', value]),
  ...['128', 0, 63, -1, 64.5, 1e300, false, [], {}].map((value): WrongField => ['memoryMiB', value]),
  ...['1', 0, -1, 65_537, 1.5, [], {}].map((value): WrongField => ['diskGiB', value]),
  ...['x', 5, {}, [], 'lan'].map((value): WrongField => ['interfaces', value]),
  ['interfaces', Array.from({ length: 9 }, () => ({ network: 'bad' }))],
  ...['bad', 5, [], true].map((value): WrongField => ['interfaces', [value], '/interfaces/0']),
  ['interfaces', [null], '/interfaces/0'],
  ['interfaces', [{}], '/interfaces/0/network'],
  ...[5, null, '', 'UPPER', 'nowhere', uuid, long(5_000)].map(
    (network): WrongField => ['interfaces', [{ network }], '/interfaces/0/network'],
  ),
  ['interfaces', [{ network: 'bad' }, { network: 'nowhere' }], '/interfaces/1/network'],
  ['interfaces', [{ network: 'bad', mac: '52:54:00:00:00:01' }], '/interfaces/0/mac'],
  ['interfaces', [{ network: 'bad', foo: 1 }], '/interfaces/0/foo'],
  ...[5, {}, '', 'x', 'fd00::1', '10.50.0.9/29', '010.50.0.2'].map(
    (ip): WrongField => ['interfaces', [{ network: 'bad', ip }], '/interfaces/0/ip'],
  ),
  // Outside, the network itself, broadcast, the gateway; and the same one twice.
  ...['10.50.0.8', '11.0.0.1', '10.50.0.0', '10.50.0.7', '10.50.0.1'].map(
    (ip): WrongField => ['interfaces', [{ network: 'bad', ip }], '/interfaces/0/ip'],
  ),
  [
    'interfaces',
    [
      { network: 'bad', ip: '10.50.0.3' },
      { network: 'bad', ip: '10.50.0.3' },
    ],
    '/interfaces/1/ip',
  ],
  ...['on', '', 5, true, 'RUNNING'].map((value): WrongField => ['desiredPowerState', value]),
  ...['never', '', 5].map((value): WrongField => ['restartPolicy', value]),
];

export const wrongLease: WrongField[] = [
  ...[5, [], {}, '', 'x', '52:54:00:00:00', '52:54:00:00:00:0g', '52:54:00:00:00:01:02', '525400000001'].map(
    (value): WrongField => ['mac', value],
  ),
  // A multicast address is nobody's own (IEEE 802).
  ...['01:00:5e:00:00:01', 'ff:ff:ff:ff:ff:ff'].map((value): WrongField => ['mac', value]),
  ...[5, [], {}, '', 'x', 'fd00::1', '10.50.0.8', '10.50.0.0', '10.50.0.7', '10.50.0.1'].map(
    (value): WrongField => ['ip', value],
  ),
  ...[5, '', 'A', 'a_b', '-a', 'a b', 'a.b', long(64), {}].map((value): WrongField => ['hostname', value]),
  ...['id', 'automatic', 'instance', 'foo'].map((field): WrongField => [field, 'x']),
];

/** A name for the table of tests. */
export function called([field, value]: WrongField): string {
  const text = JSON.stringify(value) ?? 'undefined';
  return `${field} = ${text.length > 60 ? `${text.slice(0, 60)}…` : text}`;
}
