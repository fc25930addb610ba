/**
 * `rhyzome-agent`: reads the settings, checks its credentials, and runs the agent until SIGTERM or SIGINT. Its machines
 * run on without it.
 */
import { readFileSync } from 'node:fs';
import { pino } from 'pino';
import { chooseDriver, startAgent } from '#libs/agent';
import { loadConfigOrExit } from '#libs/config';
import { PKI_EXIT_STATUS, PkiError, watchCredentials } from '#libs/pki';

const config = loadConfigOrExit('rhyzome-agent', ['agent']);
const { agent: settings } = config;
const log = pino({ level: config.log.level, base: { process: 'agent', pid: process.pid } });

function version(): string {
  for (const path of ['../../../package.json', '../../package.json']) {
    try {
      return JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')).version;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return 'unknown';
}

async function loadCredentialsOrExit() {
  const paths = settings.pki ?? config.pki;
  try {
    if (!paths)
      throw new PkiError('file_missing', `${config.file}: neither /agent/pki nor /pki names the node's certificate.`);
    const credentials = await watchCredentials(paths, {
      onChange: ({ notAfter }) => log.info({ notAfter }, 'the certificate was reloaded'),
      onRefused: ({ code, message }) => log.error({ code }, `${message} The certificate before stays in use.`),
    });
    const { type, name } = credentials.current.identity;
    if (type === 'node') return credentials;
    throw new PkiError(
      'identity_malformed',
      `${paths.cert} is the certificate of ${type} ${name}; an agent needs a node's.`,
    );
  } catch (error) {
    if (!(error instanceof PkiError)) throw error;
    process.stderr.write(`rhyzome-agent: ${error.message}\n`);
    return process.exit(PKI_EXIT_STATUS);
  }
}

const credentials = await loadCredentialsOrExit();
const agent = await startAgent({
  controller: settings.controller,
  serverName: settings.serverName,
  stateDir: settings.stateDir,
  labels: settings.labels,
  version: version(),
  credentials,
  createDriver: (ctx) => chooseDriver(ctx, { driver: settings.driver, uri: settings.libvirt?.uri }),
  log,
}).catch((error: Error) => {
  process.stderr.write(`rhyzome-agent: ${error.message}\n`);
  return process.exit(1);
});
log.info({ node: credentials.current.identity.name, controller: settings.controller }, 'the agent runs');

let stopping = false;
for (const name of ['SIGTERM', 'SIGINT'] as const) {
  process.on(name, () => {
    if (stopping) return;
    stopping = true;
    agent.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'the agent did not end cleanly');
        process.exit(1);
      },
    );
  });
}
