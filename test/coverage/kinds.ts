/**
 * How to make and change a resource of kinds that stand on others, in a tenant in which `prepareWorld` has been. Kinds
 * without an entry are made as their contract fixtures say (recipes.ts).
 */
import { PLACEHOLDER_SHA256 } from '../../libs/kinds/image/placeholder.js';
import type { Client } from '../harness/client.js';

export interface World {
  network: string;
  instance: string;
  disk: string;
}

export interface KindRecipe {
  /** Makes what it refers to, where that is not in the world. */
  prepare?(client: Client): Promise<void>;
  create(world: World, name: string): { name: string };
  patch: object;
  /** In an order in which they can be done. */
  actions?: [string, object][];
  /** What a create needs to become ready, beside time. */
  fulfil?(client: Client, id: string): Promise<void>;
}

let port = 20_000;
const tagged = { tags: { tier: 'back' } };

export const kindRecipes: Record<string, KindRecipe> = {
  networks: { create: (_, name) => ({ name, subnet: '10.90.0.0/24' }), patch: { mtu: 1400 } },
  disks: {
    create: (_, name) => ({ name, sizeGiB: 1 }),
    patch: { sizeGiB: 2 },
    actions: [
      ['attach', { instance: 'machine' }],
      ['detach', {}],
    ],
  },
  snapshots: { create: ({ disk }, name) => ({ name, disk }), patch: tagged, actions: [['restore', {}]] },
  images: {
    create: (_, name) => ({ name, sizeBytes: 65_536, sha256: PLACEHOLDER_SHA256 }),
    patch: { osInfo: { name: 'Debian' } },
    actions: [
      ['publish', {}],
      ['withdraw', {}],
    ],
    fulfil: sendPlaceholder,
  },
  instances: {
    create: ({ network }, name) => ({ name, image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network }] }),
    patch: tagged,
    actions: [
      ['stop', {}],
      ['start', {}],
      ['reboot', {}],
      ['reset', {}],
      ['stop', {}],
      ['resize', { vcpus: 2, memoryMiB: 128 }],
    ],
  },
  publicaddresses: { create: (_, name) => ({ name, pool: 'coverage' }), patch: tagged },
  portforwards: {
    create: ({ instance }, name) => ({ name, publicAddress: 'front', protocol: 'tcp', port: ++port, instance }),
    patch: { targetPort: 80 },
  },
  firewallrules: {
    create: ({ network }, name) => ({ name, network, priority: 10, direction: 'in', action: 'allow' }),
    patch: { priority: 20 },
  },
  wireguardpeers: { create: ({ network }, name) => ({ name, network }), patch: tagged },
};

/** The bytes of the placeholder image, as libs/kinds/image makes them. */
export function placeholder(): Uint8Array<ArrayBuffer> {
  const disk = Buffer.alloc(65_536);
  disk.write('Rhyzome placeholder image: it boots nothing.', 0, 'latin1');
  disk[510] = 0x55;
  disk[511] = 0xaa;
  return new Uint8Array(disk);
}

/** Uploads it in two pieces. */
async function sendPlaceholder(client: Client, id: string): Promise<void> {
  const path = `/v1/images/${id}/content`;
  const bytes = placeholder();
  const half = bytes.length / 2;
  for (const [from, to] of [
    [0, half],
    [half, bytes.length],
  ] as const) {
    const headers = {
      'content-type': 'application/octet-stream',
      'content-range': `bytes ${from}-${to - 1}/${bytes.length}`,
    };
    const answer = await client.call('PUT', path, { raw: bytes.slice(from, to), headers });
    if (answer.status > 202) throw new Error(`PUT content: ${answer.status} ${answer.text}`);
    await client.call('HEAD', path);
  }
}
