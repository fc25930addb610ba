/** The serial line of a machine that is on: the end of QEMU's pseudo terminal that it leaves for us (pty(7)). */
import { closeSync, constants, openSync } from 'node:fs';
import { ReadStream } from 'node:tty';
import { type ConsoleLine, DriverError } from '#libs/drivers/contract';
import { isActive } from './power.js';
import type { Virsh } from './virsh.js';

/** One reader a line: two would each get a part of what comes. */
export class SerialLines {
  private readonly open = new Map<string, Promise<ConsoleLine>>();

  constructor(private readonly virsh: Virsh) {}

  /** Throws DriverError `console_busy`, and what openSerialLine throws. */
  async take(domain: string): Promise<ConsoleLine> {
    if (this.open.has(domain)) throw new DriverError('console_busy', 'The console is open already.');
    const line = openSerialLine(this.virsh, domain, () => this.open.delete(domain));
    this.open.set(domain, line);
    line.catch(() => this.open.delete(domain));
    return line;
  }
}

/** Throws DriverError `not_found` or `not_running`. `onClose` is called once. */
async function openSerialLine(virsh: Virsh, domain: string, onClose: () => void): Promise<ConsoleLine> {
  const state = await virsh.state(domain);
  if (!state) throw new DriverError('not_found', 'There is no such instance on this node.', { permanent: true });
  if (!isActive(state)) throw new DriverError('not_running', 'The machine is off.', { permanent: true });
  const path = (await virsh.run(['ttyconsole', domain])).trim();
  if (!/^\/dev\/pts\/\d+$/.test(path)) throw new DriverError('hypervisor_refused', 'The machine has no serial line.');
  const fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY);
  let stream: ReadStream;
  try {
    stream = new ReadStream(fd);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  let open = true;
  const closed = () => {
    if (open) onClose();
    open = false;
  };
  stream.once('close', closed);
  return {
    output: readLine(stream),
    write: (data) =>
      new Promise((resolve, reject) => {
        stream.write(data, (error) => (error ? reject(lineEnded(error)) : resolve()));
      }),
    close() {
      stream.destroy();
      closed();
    },
  };
}

async function* readLine(stream: ReadStream): AsyncGenerator<Uint8Array> {
  try {
    for await (const data of stream) yield data as Buffer;
  } catch (error) {
    // EIO: the emulator has closed its end, the machine is off. A line that was closed here ends as well.
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'EIO' && code !== 'ERR_STREAM_PREMATURE_CLOSE') throw error;
  } finally {
    stream.destroy();
  }
}

function lineEnded(cause: Error): DriverError {
  return new DriverError('not_running', 'The console has ended with its machine.', { permanent: true, cause });
}
