/**
 * The metadata address of one network: a socat in the router's namespace that hands each connection to the agent's Unix
 * socket, after one line that says who it is: `<networkId> <guestIp>`. The guard sees to it that a guest's address is
 * its own. At most 32 connections at once, each for 10 s.
 */
import { createHash } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DriverError } from '#libs/drivers/contract';
import { commandLine, type Runner } from '#libs/drivers/host';
import { metadataAddress } from './names.js';
import { endResident, type Resident, recordedPid, runningPid, startResident } from './resident.js';

export interface MetadataDoor {
  networkId: string;
  namespace: string;
  /** Directory of this network's files. */
  dir: string;
}

const listen = `TCP4-LISTEN:80,bind=${metadataAddress},reuseaddr,fork,max-children=32,backlog=32`;

/** For a question and its answer, together. */
const seconds = 10;

/**
 * What runs for each connection; values come by the environment. A guest that has ended its half still gets its answer,
 * and the end of the answer ends all of it. The socket is named from its directory, so that its path may be long and
 * have any character.
 */
const handler = `cd "$RHYZOME_DIR" || exit
exec 3< <(printf '%s %s\\n' "$RHYZOME_NETWORK" "$SOCAT_PEERADDR"; exec cat)
reader=$!
timeout ${seconds} socat -t 0.2 'STDIN,ignoreeof!!STDOUT' "UNIX-CONNECT:$RHYZOME_SOCKET" <&3 3<&-
kill "$reader" 2> /dev/null
exit 0`;

function residentOf({ namespace, dir }: MetadataDoor): Resident {
  return { program: 'socat', mark: listen, pidFile: join(dir, 'metadata.pid'), namespace };
}

/** Throws DriverError `metadata_failed` when it does not listen, or the socket's name cannot stand in an address. */
export async function applyMetadata(runner: Runner, door: MetadataDoor, socket: string): Promise<void> {
  const name = basename(socket);
  if (!/^[\w.-]+$/.test(name)) throw new DriverError('metadata_failed', `The socket's name ${name} is malformed.`);
  const resident = residentOf(door);
  const pid = await runningPid(runner, resident);
  // The name that the handler goes by tells one that leads to another socket.
  const tag = createHash('sha256').update(socket).digest('hex').slice(0, 16);
  const command = `SYSTEM:exec bash -c \\"$RHYZOME_HANDLER\\" metadata-${tag}`;
  if (pid !== null && (await commandLine(pid))?.includes(command)) return;
  await endResident(runner, resident);
  const argv = ['socat', '-t', String(seconds), listen, command];
  await startResident(runner, resident, argv, {
    RHYZOME_HANDLER: handler,
    RHYZOME_NETWORK: door.networkId,
    RHYZOME_DIR: dirname(socket),
    RHYZOME_SOCKET: name,
  });
  for (let i = 0; i < 50; i++) {
    if (await listens(runner, door)) return;
    await sleep(100);
  }
  throw new DriverError('metadata_failed', `Nothing listens at ${metadataAddress}: socat does not start.`);
}

/** Undo of applyMetadata; not running is success. What is being answered at the moment may end itself. */
export async function removeMetadata(runner: Runner, door: MetadataDoor): Promise<void> {
  await endResident(runner, residentOf(door));
}

export async function metadataRuns(door: MetadataDoor): Promise<boolean> {
  return (await recordedPid(residentOf(door))) !== null;
}

async function listens(runner: Runner, { namespace }: MetadataDoor): Promise<boolean> {
  const argv = ['ip', 'netns', 'exec', namespace, 'ss', '-Hltn', 'src', `${metadataAddress}:80`];
  return (await runner.run(argv)).trim() !== '';
}
