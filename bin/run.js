// Runs a built program in this process where Node is new enough, else by the Node 24 that npm installed. Knows nothing of
// the programs. Plain syntax, since an old Node reads it.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const wanted = 24;

/** Loads dist/apps/<app>/main.js with the command line as it is. */
export async function run(app) {
  const main = join(root, 'dist', 'apps', app, 'main.js');
  if (!existsSync(main)) {
    console.error(`${main} is missing: run \`npm run build\` first`);
    process.exit(70);
  }
  if (Number(process.versions.node.split('.')[0]) >= wanted) {
    // What looks whether it is the program itself looks here.
    process.argv[1] = main;
    await import(main);
    return;
  }
  const node = join(root, 'node_modules', '.bin', 'node');
  if (!existsSync(node)) {
    console.error(`Node ${wanted} or newer is needed, this is ${process.version}: run \`npm ci\`, which brings one`);
    process.exit(70);
  }
  replaceBy(node, [main, ...process.argv.slice(2)]);
}

/** Hands on signals and takes over the status: to whoever started this, it is the program. */
function replaceBy(node, args) {
  const child = spawn(node, args, { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']) process.on(signal, () => child.kill(signal));
  child.once('error', (error) => {
    console.error(`${node} does not start: ${error.message}`);
    process.exit(70);
  });
  child.once('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
}
