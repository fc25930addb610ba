/**
 * A channel whose new calls always go over a connection that was made with the present certificate: when that changes,
 * another channel takes over. Calls under way end where they began, so that a renewal breaks nothing.
 */
import type * as grpc from '@grpc/grpc-js';

type Channel = grpc.ChannelInterface;

/** Calls that wait for a connection of the channel before get theirs, or fail, within this time (ms). */
const RETIRE_MS = 30_000;

export class FollowingChannel implements Channel {
  private current: Channel;
  private readonly retired = new Map<Channel, NodeJS.Timeout>();
  private readonly unsubscribe: () => void;

  /** `subscribe` calls back whenever the certificate has changed, and returns its end. */
  constructor(
    private readonly make: () => Channel,
    subscribe: (changed: () => void) => () => void,
  ) {
    this.current = make();
    this.unsubscribe = subscribe(() => this.replace());
  }

  private replace(): void {
    const before = this.current;
    this.current = this.make();
    const timer = setTimeout(() => {
      this.retired.delete(before);
      before.close();
    }, RETIRE_MS).unref();
    this.retired.set(before, timer);
  }

  close(): void {
    this.unsubscribe();
    for (const [channel, timer] of this.retired) {
      clearTimeout(timer);
      channel.close();
    }
    this.retired.clear();
    this.current.close();
  }

  getTarget(): string {
    return this.current.getTarget();
  }

  getConnectivityState(tryToConnect: boolean): grpc.connectivityState {
    return this.current.getConnectivityState(tryToConnect);
  }

  watchConnectivityState(...args: Parameters<Channel['watchConnectivityState']>): void {
    this.current.watchConnectivityState(...args);
  }

  getChannelzRef(): ReturnType<Channel['getChannelzRef']> {
    return this.current.getChannelzRef();
  }

  createCall(...args: Parameters<Channel['createCall']>): ReturnType<Channel['createCall']> {
    return this.current.createCall(...args);
  }
}
