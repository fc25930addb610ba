// What a fresh clone needs before anything of the project can run, in the JavaScript of whatever Node the machine has:
// the packages of the lock file, and Node 24 from among them. Used by start.mjs and test.mjs.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const wanted = 24;

/** Why npm must run, or undefined when node_modules is what the lock file says. */
export function whyInstall(folder = root) {
  const modules = join(folder, 'node_modules');
  if (!existsSync(modules)) return 'node_modules is missing';
  // A linked one belongs to another checkout, which installs it.
  if (lstatSync(modules).isSymbolicLink()) return undefined;
  const installed = join(modules, '.package-lock.json');
  if (!existsSync(installed)) return 'node_modules is not whole';
  const have = JSON.parse(readFileSync(installed, 'utf8')).packages;
  const want = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8')).packages;
  for (const [path, { version, optional, devOptional }] of Object.entries(want)) {
    if (path === '' || (!have[path] && (optional || devOptional))) continue;
    if (have[path]?.version !== version) return `${path.replace('node_modules/', '')} is not what the lock file says`;
  }
  return undefined;
}

/** Installs when needed. Ends the process when npm fails. */
export function install() {
  const reason = whyInstall();
  if (!reason) return;
  console.log(`installing packages (${reason}) …`);
  const started = Date.now();
  // The npm that runs this script, if one does; else the one in PATH.
  const npm = process.env.npm_execpath;
  const [command, args] = npm?.endsWith('.js') ? [process.execPath, [npm]] : ['npm', []];
  const flags = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'];
  const { status, error } = spawnSync(command, [...args, ...flags], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (error || status !== 0) {
    console.error(`npm ci failed (${error?.message ?? `status ${status}`})`);
    process.exit(1);
  }
  console.log(`installed in ${((Date.now() - started) / 1000).toFixed(0)} s`);
}

/** The Node to run the project with: this one if new enough, else npm's. Ends the process when there is none. */
export function projectNode() {
  const installed = join(root, 'node_modules', '.bin', 'node');
  if (existsSync(installed)) return installed;
  if (Number(process.versions.node.split('.')[0]) >= wanted) return process.execPath;
  console.error(`Node ${wanted} or newer is needed on this platform, this is ${process.version}`);
  return process.exit(1);
}

/** The environment in which the project's programs find each other and their Node first. */
export function projectEnvironment() {
  return { ...process.env, PATH: `${join(root, 'node_modules', '.bin')}:${process.env.PATH}` };
}

/** Runs in place of this process: signals are handed on, and its status becomes this one's. */
export function become(command, args) {
  const child = spawn(command, args, { stdio: 'inherit', env: projectEnvironment() });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.once('error', (error) => {
    console.error(`${command} does not start: ${error.message}`);
    process.exit(1);
  });
  child.once('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
}
