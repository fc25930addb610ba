/**
 * Channels from rhyzome-api to the replicas that hold nodes' streams, one to each, and whom they were believed to lead to: when
 * such a server is revoked, its channel goes with the calls on it. Knows nothing of what is said.
 */
import type * as grpc from '@grpc/grpc-js';
import { type CredentialsSource, refusingBy, type ShownCertificate } from '#libs/pki';
import { createChannel, RelayServiceClient, type RpcChannel } from '#libs/rpc';

interface Way {
  channel: RpcChannel;
  /** Servers that its connections led to, by serial. */
  believed: Map<string, ShownCertificate>;
  calls: Set<{ cancel(): void }>;
}

/** Beyond it, those that nobody uses are closed. */
const MOST_IDLE = 64;

export class ReplicaChannels {
  private readonly ways = new Map<string, Way>();
  private readonly unwatch: (() => void) | undefined;

  constructor(private readonly credentials: CredentialsSource) {
    this.unwatch = credentials.watchRefusals?.(() => this.recheck());
  }

  /** The call that `make` begins ends with status CANCELLED when its server is revoked. */
  call<Call extends Pick<grpc.ClientReadableStream<unknown>, 'cancel' | 'once'>>(
    replica: string,
    make: (client: RelayServiceClient) => Call,
  ): Call {
    const way = this.wayTo(replica);
    const call = make(way.channel.client(RelayServiceClient));
    way.calls.add(call);
    call.once('status', () => way.calls.delete(call));
    return call;
  }

  close(): void {
    this.unwatch?.();
    for (const { channel } of this.ways.values()) channel.close();
    this.ways.clear();
  }

  private wayTo(replica: string): Way {
    const known = this.ways.get(replica);
    if (known) return known;
    if (this.ways.size >= MOST_IDLE)
      for (const [target, { channel, calls }] of this.ways) {
        if (calls.size > 0) continue;
        channel.close();
        this.ways.delete(target);
      }
    const believed: Way['believed'] = new Map();
    const credentials = refusingBy(this.credentials, {
      refusalOf: (shown) => {
        const refusal = this.credentials.refusalOf?.(shown);
        if (!refusal) believed.set(shown.serial, shown);
        return refusal;
      },
    });
    const way: Way = { channel: createChannel({ target: replica, credentials }), believed, calls: new Set() };
    this.ways.set(replica, way);
    return way;
  }

  private recheck(): void {
    for (const [replica, { channel, believed, calls }] of this.ways) {
      if (![...believed.values()].some((shown) => this.credentials.refusalOf?.(shown))) continue;
      this.ways.delete(replica);
      for (const call of calls) call.cancel();
      channel.close();
    }
  }
}
