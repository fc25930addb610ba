/**
 * A content that is an image in form only: 64 KiB of raw disk with a boot sector's signature, for nodes that simulate
 * machines. Needs no QEMU. Its bytes never change, so that it is known by its digest.
 */
import { createHash } from 'node:crypto';

const SIZE_BYTES = 65_536;

function build(): Buffer {
  const disk = Buffer.alloc(SIZE_BYTES);
  disk.write('Rhyzome placeholder image: it boots nothing.', 0, 'latin1');
  disk[510] = 0x55;
  disk[511] = 0xaa;
  return disk;
}

const content = build();

export const PLACEHOLDER_SHA256 = createHash('sha256').update(content).digest('hex');

/** What `inspectImage` would say of it. */
export const placeholderImage = {
  format: 'raw',
  sizeBytes: SIZE_BYTES,
  virtualSizeBytes: SIZE_BYTES,
} as const;

/** Its bytes as a stream. */
export async function* placeholderContent(): AsyncGenerator<Uint8Array> {
  yield content;
}
