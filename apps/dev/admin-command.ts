/** Runs the `rhyzome` command as an administrator would, so that `npm start` does nothing that a user could not. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';

/** The command failed; the message is what it said. */
export class CommandFailed extends Error {
  override readonly name = 'CommandFailed';
  constructor(
    args: readonly string[],
    readonly status: number | string | null,
    output: string,
  ) {
    super(`rhyzome ${args.join(' ')} failed (${status}): ${output.trim()}`);
  }
}

/** Runs `rhyzome --config FILE …` and returns what it printed. Throws CommandFailed. */
export type AdminCommand = (args: readonly string[]) => Promise<string>;

const limitMs = 120_000;

export function adminCommand(dist: string, config: string): AdminCommand {
  const main = join(dist, 'apps', 'cli', 'main.js');
  return (args) =>
    new Promise((resolve, reject) => {
      const argv = [main, '--config', config, ...args];
      execFile(process.execPath, argv, { timeout: limitMs, maxBuffer: 16 * 1024 * 1024 }, (error, stdout, stderr) => {
        if (error)
          reject(new CommandFailed(args, error.code ?? error.signal ?? null, stderr || stdout || error.message));
        else resolve(stdout);
      });
    });
}

/** As the command, for `--json`. */
export async function adminJson<T>(run: AdminCommand, args: readonly string[]): Promise<T> {
  return JSON.parse(await run([...args, '--json'])) as T;
}
