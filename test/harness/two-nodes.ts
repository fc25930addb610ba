/**
 * Two nodes with libvirt on a stack: each a host of namespaces with an agent in it, with an underlay between them and one
 * world outside of both. The stack's own node is there, too, and takes nothing.
 */
import { join, resolve } from 'node:path';
import { type Host, layUnderlay, shareWorld, startHost, underlayLink } from '#libs/drivers/host';
import { ensureTinyImage } from '../../tools/tiny-image/index.js';
import { rhyzome } from './grpc.js';
import { NodeHost } from './node-host.js';
import { libvirtNode, type Replica } from './replica.js';
import { type Stack, stackNamed } from './stack.js';
import { until } from './until.js';

export type Side = 'east' | 'west';

export const sides = ['east', 'west'] as const;
/** The image that boots, of all tenants. */
export const bootable = 'boots';

export interface TwoNodes {
  stack: Stack;
  agents: Record<Side, Replica>;
  hosts: Record<Side, NodeHost>;
  close(): Promise<void>;
}

/** Resolves when both nodes are up. */
export async function openTwoNodes(name: string): Promise<TwoNodes> {
  const stack = await stackNamed(name, { driver: 'sim', tenants: ['acme'] });
  const cache = resolve('.rhyzome/cache');
  const started: Host[] = [];
  const agents: Replica[] = [];
  const close = async () => {
    for (const agent of agents) await agent.end();
    for (const host of started) await host.stop();
  };
  const open = async (side: Side): Promise<Host> => {
    const dir = join(stack.data, 'hosts', side);
    const cacheDir = join(cache, 'libvirt');
    const host = await startHost({ dir, cacheDir, hostname: `rz-${side}`, hasWorld: side === 'east' });
    started.push(host);
    return host;
  };
  try {
    const [east, west] = await Promise.all([open('east'), open('west')]);
    await layUnderlay(east, west);
    await shareWorld(east, west);
    await rhyzome(stack, 'image', 'import', bootable, await ensureTinyImage(cache));
    await rhyzome(stack, 'node', 'cordon', 'node1');
    const node = async (side: Side, host: Host, address: string) => {
      const agent = await libvirtNode(stack, side, host, address);
      agents.push(agent);
      agent.launch();
      return agent;
    };
    const inside = { east: NodeHost.within(east), west: NodeHost.within(west) };
    const both = {
      east: await node('east', east, underlayLink.first),
      west: await node('west', west, underlayLink.second),
    };
    for (const side of sides) await nodeIs(stack, side, 'up', both[side]);
    return { stack, agents: both, hosts: inside, close };
  } catch (error) {
    await close();
    throw error;
  }
}

export async function nodeIs(stack: Stack, side: Side, state: string, agent: Replica): Promise<void> {
  const look = async () => {
    if (!agent.isRunning) throw new Error(`the agent of ${side} has ended:\n${agent.log.slice(-2_000)}`);
    const nodes = await rhyzome(stack, 'node', 'list');
    return nodes.some((node: any) => node.name === side && node.state === state);
  };
  await until(`node ${side} is ${state}`, look, 90_000, 300);
}

export function otherSide(side: Side): Side {
  return side === 'east' ? 'west' : 'east';
}
