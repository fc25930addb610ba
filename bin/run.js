// Runs a built program in this process where Node is new enough, else by the Node 24 that npm installed. Knows nothing of
// the programs. Plain syntax, since an old Node reads it.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
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

/** Signals from the terminal reach both; the other's status becomes this one's. */
function replaceBy(node, args) {
  const child = spawnSync(node, args, { stdio: 'inherit' });
  if (child.error) throw child.error;
  process.exit(child.status ?? 128 + 15);
}
