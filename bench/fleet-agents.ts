/**
 * A child of `npm run bench:fleet`: hundreds of agents in one process, each with a certificate, a stream and a simulated machine
 * of its own. Told by one JSON argument; says a line when all of them run, and ends with SIGTERM.
 */
import { join } from 'node:path';
import { type Agent, startAgent } from '#libs/agent';
import { createSimDriver } from '#libs/drivers/sim';
import { fixedCredentials, loadCredentials } from '#libs/pki';

export interface FleetAgentsOrder {
  controller: string;
  ca: string;
  /** Folder with `<name>.pem` and `<name>-key.pem`. */
  certificates: string;
  /** Folder for the agents' state. */
  state: string;
  names: string[];
}

const order = JSON.parse(process.argv[2] ?? '{}') as FleetAgentsOrder;
const quiet = () => undefined;
const log = {
  debug: quiet,
  info: quiet,
  warn: quiet,
  error: (fields: object, message: string) => console.error(message, fields),
};

const agents: Agent[] = [];
for (const name of order.names) {
  const cert = join(order.certificates, `node-${name}.pem`);
  const key = join(order.certificates, `node-${name}-key.pem`);
  const credentials = fixedCredentials(await loadCredentials({ ca: order.ca, cert, key }));
  agents.push(
    await startAgent({
      controller: order.controller,
      serverName: 'localhost',
      stateDir: join(order.state, name),
      labels: {},
      version: 'bench',
      credentials,
      createDriver: (ctx) => createSimDriver(ctx, { fetchImages: false, isKept: false }),
      log,
    }),
  );
}
console.log('running');

process.once('SIGTERM', () => {
  Promise.all(agents.map((agent) => agent.stop())).then(() => process.exit(0));
});
