/** Checks an instance's spec before any of it reaches a command, a path or XML. */
import { isIPv6 } from 'node:net';
import { DriverError, type InstanceSpec } from '#libs/drivers/contract';
import { mostDiskSlots } from './domain-xml.js';

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const integer = (value: unknown, min: number, max: number) =>
  typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max;

/** More than any control plane lets pass; the seed has 1 MiB. */
const mostUserDataBytes = 512 * 1024;
const mostKeyBytes = 16 * 1024;

/** Throws DriverError `invalid_spec`, permanent. */
export function checkInstanceSpec(spec: InstanceSpec): void {
  const interfaces = Array.isArray(spec.interfaces) ? spec.interfaces : [];
  const checks: [boolean, string][] = [
    [typeof spec.name === 'string' && /^[a-z][a-z0-9-]{0,62}$/.test(spec.name), 'name'],
    [integer(spec.vcpus, 1, 256), 'number of vCPUs'],
    [integer(spec.memoryMiB, 64, 16 * 1024 * 1024), 'memory'],
    [spec.powerState === 'running' || spec.powerState === 'stopped', 'power state'],
    [interfaces.length <= 8 && interfaces.length === spec.interfaces?.length, 'list of interfaces'],
    [interfaces.every(({ networkId }) => uuid.test(networkId)), 'network id'],
    [interfaces.every(({ mac }) => /^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/.test(mac)), 'MAC address'],
    [interfaces.every(({ ip6 }) => ip6 === null || isIPv6(ip6)), 'IPv6 address'],
    [spec.incoming === undefined || uuid.test(spec.incoming?.operationId), 'operation'],
    ...checksOfDisks(Array.isArray(spec.disks) ? spec.disks : null),
    ...checksOfGuest(spec.guest ?? {}),
  ];
  const wrong = checks.find(([right]) => !right)?.[1];
  if (wrong) throw new DriverError('invalid_spec', `The instance's ${wrong} is wrong.`, { permanent: true });
}

function checksOfDisks(disks: InstanceSpec['disks'] | null): [boolean, string][] {
  if (!disks) return [[false, 'list of disks']];
  const distinct = (values: unknown[]) => new Set(values).size === values.length;
  const orders = disks.flatMap(({ bootOrder }) => (bootOrder === null ? [] : [bootOrder]));
  return [
    [disks.every(({ diskId }) => uuid.test(diskId)), 'disk id'],
    [disks.every(({ slot }) => integer(slot, 0, mostDiskSlots - 1)), 'disk slot'],
    [orders.every((order) => integer(order, 1, mostDiskSlots)), 'boot order'],
    [distinct(disks.map(({ diskId }) => diskId)), 'list of disks, with one disk twice,'],
    [distinct(disks.map(({ slot }) => slot)) && distinct(orders), 'list of disks, with two in one place,'],
  ];
}

function checksOfGuest({ hostname, userData, sshKeys }: Partial<InstanceSpec['guest']>): [boolean, string][] {
  const isKey = (key: unknown) => typeof key === 'string' && key.length <= mostKeyBytes && !/[\r\n\0]/.test(key);
  return [
    [typeof hostname === 'string' && /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/i.test(hostname), 'host name'],
    [
      userData === null || (typeof userData === 'string' && Buffer.byteLength(userData) <= mostUserDataBytes),
      'user data',
    ],
    [Array.isArray(sshKeys) && sshKeys.length <= 16 && sshKeys.every(isKey), 'list of SSH keys'],
  ];
}
