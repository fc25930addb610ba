/**
 * Programs that a router keeps running in its namespace beyond this agent's life. One is known by its arguments, its
 * pid on file and its namespace, so that it is found again after a restart of the agent, also when the file was lost.
 */
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CommandError, commandLine, endProcesses, type Runner } from '#libs/drivers/host';
import { readOr, replaceFile } from './files.js';

export interface Resident {
  /** Name of its program, as the last part of its first argument has it. */
  program: string;
  /** An argument that no other of that program in this namespace has. */
  mark: string;
  pidFile: string;
  namespace: string;
}

/** The pid on file, if that process is it. Cheap: reads two files. */
export async function recordedPid(resident: Resident): Promise<number | null> {
  const pid = Number.parseInt(await readOr(resident.pidFile, ''), 10);
  if (!Number.isInteger(pid) || pid < 2) return null;
  return isIt(resident, await commandLine(pid)) ? pid : null;
}

/** The same, if it also lives in the router's present namespace. */
export async function runningPid(runner: Runner, resident: Resident): Promise<number | null> {
  const pid = await recordedPid(resident);
  if (pid === null) return null;
  const name = (await runner.run(['ip', 'netns', 'identify', String(pid)])).trim();
  return name === resident.namespace ? pid : null;
}

/** Ends it, also one whose pid file was lost; not running is success. */
export async function endResident(runner: Runner, resident: Resident): Promise<void> {
  await endProcesses(async () => {
    const pids = new Set(await residentPids(runner, resident));
    const pid = await recordedPid(resident);
    if (pid !== null) pids.add(pid);
    return [...pids];
  }, 2000);
  await rm(resident.pidFile, { force: true });
}

/**
 * Starts a program that does not leave its caller by itself, with `environment` added, apart from this process. False:
 * it did not start, or ended at once. What it serves may need a moment more.
 */
export async function startResident(
  runner: Runner,
  resident: Resident,
  argv: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<boolean> {
  const settings = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  const apart = ['setsid', '-f', 'sh', '-c', 'exec "$@" </dev/null >/dev/null 2>&1', 'sh', ...argv];
  await runner.run(['ip', 'netns', 'exec', resident.namespace, 'env', ...settings, ...apart]);
  for (let i = 0; i < 100; i++) {
    const [pid] = await residentPids(runner, resident);
    if (pid !== undefined) {
      await replaceFile(resident.pidFile, `${pid}\n`);
      await sleep(100);
      return (await recordedPid(resident)) !== null;
    }
    await sleep(100);
  }
  return false;
}

/** Every one in the router's namespace. */
export async function residentPids(runner: Runner, resident: Resident): Promise<number[]> {
  const pids = await runner.run(['ip', 'netns', 'pids', resident.namespace]).catch((error: unknown) => {
    // No namespace of that name, or a name that leads nowhere.
    if (error instanceof CommandError && error.exitCode !== null) return '';
    throw error;
  });
  const found: number[] = [];
  for (const pid of pids.split('\n').filter(Boolean).map(Number)) {
    if (isIt(resident, await commandLine(pid))) found.push(pid);
  }
  return found;
}

function isIt({ program, mark }: Resident, argv: readonly string[] | null): boolean {
  return argv !== null && argv[0]?.split('/').at(-1) === program && argv.includes(mark);
}
