/** The settings file of the development stack: one for all its processes, and what `npx rhyzome --config` takes. */
import { isIPv6 } from 'node:net';
import type { RhyzomeConfig } from '#libs/config';
import { worldLink } from '#libs/drivers/host';
import type { DevCertificates } from './certificates.js';
import { type DataFolder, writeWhole } from './data-folder.js';
import type { DevDatabase } from './database.js';
import type { Ports } from './ports.js';

export interface SettingsInput {
  connections: DevDatabase['connections'];
  certificates: DevCertificates;
  ports: Ports;
  driver: 'sim' | 'libvirt';
  libvirtUri?: string;
  /** The address at which nodes on other machines reach rhyzome-grpc; undefined: none do. */
  nodesAt?: string;
  /** The token issuer, whose admin API is Keycloak's. */
  issuer: { url: string; clientId: string; clientSecretFile: string };
}

/** Writes it with mode 0600: it holds the database's passwords. */
export function writeSettings(folder: DataFolder, input: SettingsInput): void {
  const { ports, certificates, nodesAt } = input;
  const local = (port: number) => `127.0.0.1:${port}`;
  const outside = (port: number) =>
    isIPv6(nodesAt ?? '') ? `[${nodesAt}]:${port}` : `${nodesAt ?? '127.0.0.1'}:${port}`;
  const settings: Omit<RhyzomeConfig, 'log' | 'api' | 'images' | 'keycloak' | 'pki'> & {
    api: object;
    grpc: object;
    keycloak: object;
    pki: object;
  } = {
    ...input.connections,
    pki: { ...certificates.server, issuer: { cert: certificates.issuer.cert, key: certificates.issuer.key } },
    api: { listen: local(ports.api), monitoring: local(ports.apiMonitoring), publicUrl: `http://${local(ports.api)}` },
    grpc: {
      listen: [local(ports.grpc), `unix:${folder.grpcSocket}`, ...(nodesAt === undefined ? [] : [outside(ports.grpc)])],
      advertise: local(ports.grpc),
      enrollment: {
        listen: outside(ports.enrollment),
        advertise: nodesAt === undefined ? `localhost:${ports.enrollment}` : outside(ports.enrollment),
      },
      monitoring: local(ports.grpcMonitoring),
      workers: 10,
    },
    agent: {
      controller: [`unix:${folder.grpcSocket}`],
      serverName: 'localhost',
      stateDir: folder.agent,
      driver: input.driver,
      labels: {},
      pki: certificates.node,
      // `npm start` makes new ones itself.
      renew: false,
      ...(input.libvirtUri
        ? { libvirt: { uri: input.libvirtUri }, network: { uplink: { interface: worldLink.interface } } }
        : {}),
    },
    storage: { dir: folder.storage },
    keycloak: { ...input.issuer, redirectUris: ['http://127.0.0.1/*', 'http://localhost/*'] },
  };
  writeWhole(folder.config, settings);
}
