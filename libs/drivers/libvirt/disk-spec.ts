/** Checks a disk's and a snapshot's spec before any of it reaches a command or a path. */
import { type DiskSpec, DriverError, type ImageSpec, type SnapshotSpec } from '#libs/drivers/contract';

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
/** Above what qcow2 holds with its clusters of 64 KiB, and what any machine here has. */
const mostBytes = 1024 ** 5;
const bytes = (value: unknown) =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 && value <= mostBytes;

/** Throws DriverError `invalid_spec`, permanent. */
export function checkDiskSpec(spec: DiskSpec): void {
  const { image, snapshot, sizeBytes, incoming } = spec;
  const checks: [boolean, string][] = [
    [bytes(sizeBytes), 'size'],
    [image === null || snapshot === null, 'origin, an image and a snapshot at once,'],
    [image === null || isImage(image), 'image'],
    [snapshot === null || (uuid.test(snapshot?.diskId) && uuid.test(snapshot?.snapshotId)), 'snapshot'],
    [!image || sizeBytes >= image.virtualSizeBytes, 'size, smaller than its image,'],
    [incoming === undefined || uuid.test(incoming?.operationId), 'operation'],
  ];
  refuse('disk', checks);
}

/** Throws DriverError `invalid_spec`, permanent. */
export function checkSnapshotSpec(spec: SnapshotSpec): void {
  refuse('snapshot', [[uuid.test(spec?.diskId), 'disk id']]);
}

function isImage(image: ImageSpec): boolean {
  const isFormat = image?.format === 'qcow2' || image?.format === 'raw';
  return isFormat && /^[0-9a-f]{64}$/.test(image.sha256) && bytes(image.virtualSizeBytes);
}

function refuse(kind: string, checks: [boolean, string][]): void {
  const wrong = checks.find(([right]) => !right)?.[1];
  if (wrong) throw new DriverError('invalid_spec', `The ${kind}'s ${wrong} is wrong.`, { permanent: true });
}
