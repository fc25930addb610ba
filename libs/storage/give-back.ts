/** Giving memory back that the garbage collector would keep for long, since it sees little of what lies outside its heap. */

/**
 * Frees a chunk that nobody needs any more, at once: the collector would let 64 MiB of them come together first. Only where
 * the chunk is all of its memory, as those of the HTTP parser and of files are.
 */
export function giveBack({ buffer, byteLength }: Uint8Array): void {
  const memory = buffer as ArrayBuffer & { transfer(newByteLength: number): ArrayBuffer };
  if (memory.byteLength === byteLength) memory.transfer(0);
}
