/**
 * `rhyzome-agent`: reads the settings, checks its credentials, and runs the agent until SIGTERM or SIGINT. Its machines
 * run on without it. `rhyzome-agent enroll` is another matter.
 */
import { chooseDriver, enrolledLabels, startAgent } from '#libs/agent';
import { loadConfigOrExit } from '#libs/config';
import { createLog, credentialsOrExit, onShutdown, version } from '#libs/process';
import { enrollCommand } from './enroll.js';

const [subcommand, ...rest] = process.argv.slice(2);
if (subcommand === 'enroll') process.exit(await enrollCommand(rest));

const config = loadConfigOrExit('rhyzome-agent', ['agent']);
const { agent: settings } = config;
const log = createLog('agent', config.log.level);
const credentials = await credentialsOrExit('rhyzome-agent', settings.pki ?? config.pki, 'node', log);
const agent = await startAgent({
  controller: settings.controller,
  serverName: settings.serverName,
  stateDir: settings.stateDir,
  labels: { ...(await enrolledLabels(settings.stateDir)), ...settings.labels },
  migration: settings.migration,
  version: version(),
  credentials,
  renews: settings.renew,
  createDriver: (ctx) =>
    chooseDriver(ctx, {
      driver: settings.driver,
      uri: settings.libvirt?.uri,
      uplink: settings.network?.uplink,
      underlay: settings.network?.underlay,
      cacheDir: settings.cacheDir,
      shared: settings.storage && { name: settings.storage.shared, dir: settings.storage.dir },
    }),
  log,
}).catch((error: Error) => {
  process.stderr.write(`rhyzome-agent: ${error.message}\n`);
  return process.exit(1);
});
log.info({ node: credentials.current.identity.name, controller: settings.controller }, 'the agent runs');

onShutdown(log, () => agent.stop());
