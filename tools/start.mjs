// `npm start`: installs and builds what is missing or stale, then hands over to the supervisor in apps/dev under Node 24.
// Knows nothing of what is started; the options are the supervisor's.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { become, install, projectNode, root } from './bootstrap.mjs';

install();
const node = projectNode();
const built = spawnSync(node, [join(root, 'tools', 'build.mjs')], {
  cwd: root,
  stdio: ['ignore', 'inherit', 'inherit'],
});
if (built.status !== 0) process.exit(built.status ?? 1);
become(node, ['--enable-source-maps', join(root, 'dist', 'apps', 'dev', 'main.js'), ...process.argv.slice(2)]);
