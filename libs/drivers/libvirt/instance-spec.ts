/** Checks an instance's spec before any of it reaches a command, a path or XML. */
import { DriverError, type InstanceSpec } from '#libs/drivers/contract';

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const integer = (value: unknown, min: number, max: number) =>
  typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max;

/** Throws DriverError `invalid_spec`, permanent. */
export function checkInstanceSpec(spec: InstanceSpec): void {
  const { image } = spec;
  const interfaces = Array.isArray(spec.interfaces) ? spec.interfaces : [];
  const checks: [boolean, string][] = [
    [typeof spec.name === 'string' && /^[a-z][a-z0-9-]{0,62}$/.test(spec.name), 'name'],
    [integer(spec.vcpus, 1, 256), 'number of vCPUs'],
    [integer(spec.memoryMiB, 64, 16 * 1024 * 1024), 'memory'],
    [spec.diskGiB === null || integer(spec.diskGiB, 1, 64 * 1024), 'disk size'],
    [spec.powerState === 'running' || spec.powerState === 'stopped', 'power state'],
    [/^[0-9a-f]{64}$/.test(image?.sha256 ?? ''), 'image digest'],
    [image?.format === 'qcow2' || image?.format === 'raw', 'image format'],
    [integer(image?.virtualSizeBytes, 1, Number.MAX_SAFE_INTEGER), 'image size'],
    [interfaces.length <= 16 && interfaces.length === spec.interfaces?.length, 'list of interfaces'],
    [interfaces.every(({ networkId }) => uuid.test(networkId)), 'network id'],
    [interfaces.every(({ mac }) => /^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/.test(mac)), 'MAC address'],
    [spec.diskGiB === null || diskBytes(spec) >= image?.virtualSizeBytes, 'disk size, smaller than its image,'],
  ];
  const wrong = checks.find(([right]) => !right)?.[1];
  if (wrong) throw new DriverError('invalid_spec', `The instance's ${wrong} is wrong.`, { permanent: true });
}

/** Size of the boot disk in bytes. */
export function diskBytes(spec: InstanceSpec): number {
  return spec.diskGiB === null ? spec.image.virtualSizeBytes : spec.diskGiB * 1024 ** 3;
}
