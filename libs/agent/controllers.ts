/**
 * The controllers that an agent may dial, one at a time: the next one when it went away. They are replicas of one server,
 * so that it does not matter which one it is. Knows nothing of what is said to them.
 */
import type { CredentialsSource } from '#libs/pki';
import { createChannel, NodeServiceClient, type RpcChannel } from '#libs/rpc';

export interface ControllersOptions {
  /** `host:port` or `unix:/path`; at least one. */
  targets: readonly string[];
  serverName?: string;
  credentials: CredentialsSource;
  random?: () => number;
}

interface Controller {
  target: string;
  channel: RpcChannel;
  client: NodeServiceClient;
}

export class Controllers {
  private readonly all: readonly Controller[];
  private at: number;

  /** Begins with any of them, so that a fleet spreads over the replicas. Dials nobody yet. */
  constructor({ targets, serverName, credentials, random = Math.random }: ControllersOptions) {
    if (targets.length === 0) throw new Error('There is no controller to dial.');
    this.all = targets.map((target) => {
      const channel = createChannel({ target, serverName, credentials });
      return { target, channel, client: channel.client(NodeServiceClient) };
    });
    this.at = Math.floor(random() * targets.length);
  }

  get size(): number {
    return this.all.length;
  }

  /** Where the current one is. */
  get target(): string {
    return this.all[this.at]!.target;
  }

  /** Of the current one. */
  get client(): NodeServiceClient {
    return this.all[this.at]!.client;
  }

  /** From now on the next one; with one only, the same. */
  next(): void {
    this.at = (this.at + 1) % this.all.length;
  }

  close(): void {
    for (const { channel } of this.all) channel.close();
  }
}
