/**
 * A running machine to another node, by libvirt (virsh(1), migrate): its memory and what its disks have beyond their
 * images, over the sockets of the migration. It arrives paused, whatever happens to the connection in the last moment:
 * letting it run is the departures' business.
 */
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type DriverContext,
  DriverError,
  type Message,
  type MigrationProgress,
  type Ref,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import type { Accelerator } from '../accelerator.js';
import { domainName, type Places } from '../places.js';
import type { Virsh } from '../virsh.js';
import { processorOf } from './arrivals.js';
import type { Outgoing } from './records.js';
import { sendSeed } from './send.js';
import { carryBothWays, MigrationSockets } from './sockets.js';

export interface LiveParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  places: Places;
  accelerator: Accelerator;
  root: string;
}

const progressMs = 1000;
const abortPollMs = 200;
const abortLimitMs = 60_000;

interface Prepared {
  accelerator: string;
  processor: string;
  definition: string;
  seed: string;
  consoleLog: string;
  disks: Record<string, string>;
  /** Those that stay on storage that both nodes share. */
  stay: string[];
}

/** Throws DriverError `not_migratable`, `migration_failed`; an abort throws the signal's reason and leaves it running here. */
export async function sendLive(
  parts: LiveParts,
  ref: Ref,
  outgoing: Outgoing,
  signal: AbortSignal,
  onProgress: (progress: MigrationProgress) => void,
): Promise<void> {
  const { context, places, virsh, root } = parts;
  const { to, operationId } = outgoing;
  const domain = domainName(context.installation, ref.id);
  const place = places.of(ref.id);
  // One that an agent began that is gone cannot go on: its connections went with that agent.
  await abortLive(parts, domain);
  const { answer, stream } = await context.migration.open(to, operationId, 'prepare', {}, signal);
  stream.destroy();
  const there = preparedFrom(answer);
  refuseOther(parts, there);
  if (existsSync(place.seed)) await sendSeed(context, outgoing, place.seed, signal);
  const found = await virsh.domain(domain);
  const targets = Object.entries(there.disks).map(([id, path]) => {
    const from = found?.disks.find((disk) => disk.path.split('/').at(-2) === id);
    if (!from) throw new DriverError('not_migratable', `The machine does not have disk ${id}.`, { permanent: true });
    return { id, target: from.name, from: from.path, to: path };
  });
  const moves = [...targets, { from: place.seed, to: there.seed }, { from: place.consoleLog, to: there.consoleLog }];
  const live = elsewhere(await virsh.run(['dumpxml', '--migratable', domain]), moves);
  const files = { live: join(place.dir, 'migrate-live.xml'), defined: join(place.dir, 'migrate-defined.xml') };
  await writeFile(files.live, live, { mode: 0o600 });
  await writeFile(files.defined, there.definition, { mode: 0o600 });
  const sockets = new MigrationSockets(root, operationId);
  const close = await sockets.listen((channel, socket) => {
    context.migration.open(to, operationId, channel, {}, signal).then(
      (opened) => carryBothWays(opened.stream, socket),
      (error: unknown) => {
        context.log.warn({ err: error, channel, operationId }, 'a channel to another node could not be opened');
        socket.destroy();
      },
    );
  });
  try {
    const copied = targets.filter(({ id }) => !there.stay.includes(id)).map(({ target }) => target);
    const argv = migrateArgv(domain, sockets, files, copied, there.stay.length > 0);
    await run(parts, domain, argv, signal, onProgress);
  } finally {
    await close();
    for (const file of Object.values(files)) await rm(file, { force: true });
  }
}

function migrateArgv(
  domain: string,
  sockets: MigrationSockets,
  files: { live: string; defined: string },
  targets: readonly string[],
  sharesDisks: boolean,
): string[] {
  const disks = targets.length > 0 ? ['--copy-storage-inc', '--migrate-disks', targets.join(',')] : [];
  return [
    ...['migrate', domain, `qemu+unix:///system?socket=${sockets.path('libvirt')}`],
    // Paused there until it is let go; defined there, since it is to stay.
    ...['--live', '--p2p', '--persistent', '--suspend', ...disks],
    // libvirt knows a shared file by its file system's type alone; here both nodes have seen that it is the same one.
    ...(sharesDisks ? ['--unsafe'] : []),
    // A guest that writes faster than the network carries is slowed down, so that it ends.
    ...['--auto-converge', '--abort-on-error'],
    ...['--xml', files.live, '--persistent-xml', files.defined],
    ...['--migrateuri', `unix://${sockets.path('memory')}`, '--disks-uri', `unix://${sockets.path('disks')}`],
  ];
}

async function run(
  { virsh }: LiveParts,
  domain: string,
  argv: readonly string[],
  signal: AbortSignal,
  onProgress: (progress: MigrationProgress) => void,
): Promise<void> {
  const ended = new AbortController();
  const watching = watchProgress(virsh, domain, ended.signal, onProgress);
  // It may have ended by itself just now; how it ended is what virsh says below.
  const abort = () => void virsh.run(['domjobabort', domain]).catch(() => undefined);
  signal.addEventListener('abort', abort);
  try {
    signal.throwIfAborted();
    await virsh.long(argv);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof DriverError)) throw error;
    throw new DriverError('migration_failed', `It could not be moved while running: ${error.message}`, {
      cause: error,
    });
  } finally {
    signal.removeEventListener('abort', abort);
    ended.abort();
    await watching;
  }
}

/** Until it ends; that there is no job any more is no failure. */
async function watchProgress(
  virsh: Virsh,
  domain: string,
  ended: AbortSignal,
  onProgress: (progress: MigrationProgress) => void,
): Promise<void> {
  while (!ended.aborted) {
    await sleep(progressMs, undefined, { signal: ended }).catch(() => undefined);
    if (ended.aborted) return;
    // Nothing to tell of between two jobs of libvirt's; whether it goes well does not depend on it.
    const text = await virsh.run(['domjobinfo', domain, '--rawstats']).catch(() => '');
    const value = (name: string) => Number(new RegExp(`^${name}\\s*:?\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
    const [memory, disks] = [value('memory_total'), value('disk_total')];
    const left = value('memory_remaining') + value('disk_remaining');
    if (memory + disks > 0) onProgress({ doneBytes: memory + disks - left, totalBytes: memory + disks });
  }
}

/** Ends what libvirt may still be sending of it; nothing under way is success. */
export async function abortLive({ virsh }: Pick<LiveParts, 'virsh'>, domain: string): Promise<void> {
  for (const end = Date.now() + abortLimitMs; await isSending(virsh, domain); await sleep(abortPollMs)) {
    if (Date.now() > end) throw new DriverError('hypervisor_refused', 'libvirt does not end the migration.');
    // It may have ended by itself just now.
    await virsh.run(['domjobabort', domain]).catch(() => undefined);
  }
}

async function isSending(virsh: Virsh, domain: string): Promise<boolean> {
  // Off, or not there: nothing is sent.
  const text = await virsh.run(['domjobinfo', domain]).catch((error: unknown) => {
    if (error instanceof DriverError && error.code !== 'hypervisor_refused') throw error;
    return '';
  });
  return /Outgoing migration/.test(text);
}

function refuseOther({ accelerator }: LiveParts, there: Prepared): void {
  const isSame = there.accelerator === accelerator && there.processor === processorOf(accelerator);
  if (isSame) return;
  const message = 'The nodes’ processors differ, so that it cannot move while it runs; stopped, it can.';
  throw new DriverError('not_migratable', message, { permanent: true });
}

/** The definition as the machine runs here, with the files of there. */
export function elsewhere(xml: string, moves: readonly { from: string; to: string }[]): string {
  return xml.replaceAll(/(\s(?:file|path)=)(['"])([^'"]*)\2/g, (whole, name: string, quote: string, path: string) => {
    const move = moves.find(({ from }) => escaped(from) === path);
    return move ? `${name}${quote}${escaped(move.to)}${quote}` : whole;
  });
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll("'", '&apos;').replaceAll('"', '&quot;');
}

function preparedFrom(answer: Message): Prepared {
  const { accelerator, processor, definition, seed, consoleLog, disks, stay = [] } = answer;
  const isText = [accelerator, processor, definition, seed, consoleLog].every((text) => typeof text === 'string');
  if (!isText || typeof disks !== 'object' || disks === null) {
    throw new DriverError('not_migratable', 'The other node does not say where it takes the machine in.');
  }
  return { ...answer, stay } as unknown as Prepared;
}
