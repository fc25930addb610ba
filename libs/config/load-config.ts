/**
 * Finds, reads and checks the settings file. The only reader of files and environment for settings; the environment
 * decides nothing, so that what a process does is seen in its file and its command line.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { type ConnectionOptions, parseConnection } from './connection.js';
import { configShape, type RhyzomeConfig, sectionsWithDefaults } from './rhyzome-config.js';

/** The settings with the sections that were asked for certainly there. */
export type LoadedConfig<K extends keyof RhyzomeConfig> = RhyzomeConfig & Required<Pick<RhyzomeConfig, K>>;

const fileName = 'rhyzome-api.json';

/** The file that counts: the one given, else rhyzome-api.json here, else the one in /etc/rhyzome. */
export function findConfig(given?: string, folder = process.cwd()): string {
  if (given) return resolve(folder, given);
  const here = resolve(folder, fileName);
  return existsSync(here) ? here : `/etc/rhyzome/${fileName}`;
}

/**
 * Reads the settings. `needs` names the sections that this process cannot do without, e.g. `['db', 'pki', 'api']`.
 * Throws ConfigError with every problem in the file, each with its JSON pointer.
 */
export function loadConfig<const K extends keyof RhyzomeConfig>(
  needs: readonly K[],
  options: { file?: string; folder?: string } = {},
): LoadedConfig<K> {
  const file = findConfig(options.file, options.folder);
  const parsed = parseFile(file, readConfig(file, options));
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) {
    for (const section of needs) if (sectionsWithDefaults.has(section) && !(section in parsed)) parsed[section] = {};
  }
  const problems: ConfigProblem[] = [];
  const config = configShape(parsed, { pointer: '', folder: dirname(file), problems });
  for (const section of needs) {
    if (config && config[section] === undefined && !problems.some((p) => p.pointer === `/${section}`))
      problems.push({ pointer: `/${section}`, message: 'is missing' });
  }
  if (problems.length > 0) throw new ConfigError('config_invalid', file, 'the settings are wrong', problems);
  return config as LoadedConfig<K>;
}

/** A connection of the settings for a pg pool; relative paths in it start from the folder of the settings file. */
export function connectionOf(connection: string, file: string): ConnectionOptions {
  return parseConnection(connection, dirname(file));
}

/**
 * For the servers' main: takes `[--config FILE]` and `--help` from the command line and loads the settings. Ends the
 * process with status 78 where these are wrong, 64 (EX_USAGE) where the command line is, 0 after the help.
 */
export function loadConfigOrExit<const K extends keyof RhyzomeConfig>(
  program: string,
  needs: readonly K[],
  argv: readonly string[] = process.argv.slice(2),
): LoadedConfig<K> & { file: string } {
  const usage = `Usage: ${program} [--config FILE]\nWithout --config: ./${fileName}, else /etc/rhyzome/${fileName}\n`;
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: { config: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    });
    if (values.help) {
      process.stdout.write(usage);
      return process.exit(0);
    }
    const file = findConfig(values.config);
    return { ...loadConfig(needs, { file }), file };
  } catch (error) {
    if (error instanceof ConfigError) {
      process.stderr.write(`${program}: ${error.message}\n`);
      return process.exit(error.exitCode);
    }
    if (String((error as NodeJS.ErrnoException).code).startsWith('ERR_PARSE_ARGS')) {
      process.stderr.write(`${program}: ${(error as Error).message}\n${usage}`);
      return process.exit(64);
    }
    throw error;
  }
}

function readConfig(file: string, options: { file?: string; folder?: string }): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code;
    if (reason !== 'ENOENT') throw new ConfigError('config_unreadable', file, `cannot be read (${reason})`);
    const also = options.file ? '' : `, and neither is there a ${fileName} in ${options.folder ?? process.cwd()}`;
    throw new ConfigError('config_missing', file, `there is no such file${also}`);
  }
}

function parseFile(file: string, content: string): Record<string, unknown> {
  try {
    return JSON.parse(content);
  } catch (cause) {
    // Newer engines quote the text around the mistake, which may be a secret: only the position is kept.
    const position = /at position (\d+)/.exec((cause as Error).message)?.[1];
    const line = position ? content.slice(0, Number(position)).split('\n').length : undefined;
    throw new ConfigError('config_malformed', file, `is not JSON${line ? ` (line ${line})` : ''}`);
  }
}
