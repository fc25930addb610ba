/** What the pieces of this driver share: how it is set up, and what it tells of a network. */
import type { DriverContext, NetworkStatus } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import type { Announcer } from './announcer.js';
import { bridgeName, namespaceName } from './names.js';
import type { Underlay } from './overlay.js';
import type { Records } from './record.js';
import { firstAddress, type Uplink } from './uplink.js';

export interface NetworkOptions {
  /** Without it guests reach their own network only. */
  uplink?: Uplink;
  /** Without it no network spans to other nodes. */
  underlay?: Underlay;
  /** What stands before every command, e.g. to work inside a host (see #libs/drivers/host). */
  enter?: readonly string[];
}

/** What this driver reports: where the network is, too. */
export interface LocalNetworkStatus extends NetworkStatus {
  bridge: string;
  namespace: string;
}

export interface Parts {
  context: DriverContext;
  options: NetworkOptions;
  runner: Runner;
  records: Records;
  announcer: Announcer;
  /** One at a time: what concerns all networks, and all of one network. */
  alone<T>(key: string, work: () => Promise<T>): Promise<T>;
}

/** `uplinkAddress`: the machine's, as peers of a VPN door know it. */
export function statusOf(
  installation: string,
  id: string,
  port: number | null,
  uplinkAddress: string | null,
): LocalNetworkStatus {
  return {
    bridge: bridgeName(installation, id),
    namespace: namespaceName(installation, id),
    ...(port !== null && uplinkAddress !== null && { wireguardEndpoint: `${uplinkAddress}:${port}` }),
  };
}

export async function uplinkAddress({ runner, options }: Parts): Promise<string | null> {
  return options.uplink ? firstAddress(runner, options.uplink.interface) : null;
}
