/**
 * A qcow2 file that is right in form and holds no data, for machines that are simulated. Layout: QEMU's
 * docs/interop/qcow2; cluster 0 header, 1 refcount table, 2 refcount block, from 3 the L1 table, all of it empty.
 */

const clusterBits = 16;
const cluster = 1 << clusterBits;
/** Data that one L2 table maps: 8192 entries of a cluster each. */
const bytesPerL1Entry = (cluster / 8) * cluster;
const headerBytes = 104;
/** Of our own; readers skip extensions that they do not know. */
const noteExtension = 0x52485a31;

/** The file's bytes (256 KiB up to 4 TiB). `note` stands in a header extension, so that no two contents are alike. */
export function placeholderQcow2(virtualSizeBytes: number, note: string): Buffer {
  const size = Math.ceil(virtualSizeBytes / 512) * 512;
  const l1Entries = Math.max(1, Math.ceil(size / bytesPerL1Entry));
  const clusters = 3 + Math.ceil((l1Entries * 8) / cluster);
  const file = Buffer.alloc(clusters * cluster);
  file.write('QFI\xfb', 0, 'latin1');
  file.writeUInt32BE(3, 4);
  file.writeUInt32BE(clusterBits, 20);
  file.writeBigUInt64BE(BigInt(size), 24);
  file.writeUInt32BE(l1Entries, 36);
  file.writeBigUInt64BE(BigInt(3 * cluster), 40);
  file.writeBigUInt64BE(BigInt(cluster), 48);
  file.writeUInt32BE(1, 56);
  file.writeUInt32BE(4, 96); // Refcounts of 2^4 bits.
  file.writeUInt32BE(headerBytes, 100);
  const text = Buffer.from(note).subarray(0, 32_768);
  file.writeUInt32BE(noteExtension, headerBytes);
  file.writeUInt32BE(text.length, headerBytes + 4);
  text.copy(file, headerBytes + 8);
  file.writeBigUInt64BE(BigInt(2 * cluster), cluster);
  for (let n = 0; n < clusters; n += 1) file.writeUInt16BE(1, 2 * cluster + 2 * n);
  return file;
}
