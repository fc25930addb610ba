/**
 * What stands before every handler: nobody without an identity of our trust domain comes in, nobody who was turned away,
 * nothing before the services are there; every call has a request id. Keeps the calls under way, so that the streams of
 * an identity that is revoked can be ended.
 */
import * as grpc from '@grpc/grpc-js';
import { RhyzomeError } from '#libs/core';
import { toStatus } from './errors.js';
import { type Peer, peerOf, requestIdKey, requestIdOf } from './peer.js';

export interface GateOptions {
  /** The trust domain that peers must be of; asked for each call, because certificates may be reloaded. */
  trustDomain: () => string;
  /** Says why a peer may not call at all (revoked, removed); undefined when it may. Must be quick: it reads memory. */
  refuse?: (peer: Peer) => RhyzomeError | undefined;
  /** Told of each call that was refused for its peer, and where it came from. */
  onRefused?: (peer: Peer, source: string) => void;
}

interface LiveCall {
  peer: Peer;
  call: grpc.ServerInterceptingCallInterface;
}

/** One for each server. */
export class Gate {
  private readonly live = new Set<LiveCall>();
  private isOpen = false;

  constructor(private readonly options: GateOptions) {}

  /** Until then every call is UNAVAILABLE, so that no client takes a half-started server for one without services. */
  open(): void {
    this.isOpen = true;
  }

  /**
   * Asks again of all calls under way whether their peers may call, e.g. after a certificate was revoked; ends those that
   * may not, whose certificate has expired by now, too. Returns how many.
   */
  recheck(): number {
    let ended = 0;
    for (const entry of this.live) {
      const refusal = this.refusalOf(entry.peer);
      if (!refusal) continue;
      this.live.delete(entry);
      entry.call.sendStatus(toStatus(refusal));
      ended += 1;
    }
    return ended;
  }

  readonly interceptor: grpc.ServerInterceptor = (_method, call) => {
    let entry: LiveCall | undefined;
    const forget = () => {
      if (entry) this.live.delete(entry);
    };
    let requestId: string | undefined;
    return new grpc.ServerInterceptingCall(call, {
      start: (next) => {
        try {
          entry = { peer: this.admit(call), call };
        } catch (error) {
          call.sendStatus(toStatus(error));
          return;
        }
        this.live.add(entry);
        next({
          onReceiveMetadata: (metadata, deliver) => {
            requestId = requestIdOf(metadata);
            metadata.set(requestIdKey, requestId);
            deliver(metadata);
          },
          onCancel: forget,
        });
      },
      sendMetadata: (metadata, next) => {
        if (requestId) metadata.set(requestIdKey, requestId);
        next(metadata);
      },
      sendStatus: (status, next) => {
        forget();
        next(status);
      },
    });
  };

  private admit(call: grpc.ServerInterceptingCallInterface): Peer {
    if (!this.isOpen) throw new RhyzomeError('overloaded', 'The server is still starting.');
    const peer = peerOf(call);
    if (peer.trustDomain !== this.options.trustDomain()) {
      throw new RhyzomeError('unauthenticated', `The trust domain ${peer.trustDomain} is not this server’s.`);
    }
    const refusal = this.refusalOf(peer);
    if (refusal) {
      this.options.onRefused?.(peer, call.getPeer());
      throw refusal;
    }
    return peer;
  }

  /** TLS looks at the dates when a connection begins; connections may outlive a certificate. */
  private refusalOf(peer: Peer): RhyzomeError | undefined {
    if (peer.notAfter.getTime() < Date.now()) {
      return new RhyzomeError(
        'unauthenticated',
        'Your certificate has expired. Enroll again, or have a new one issued.',
      );
    }
    return this.options.refuse?.(peer);
  }
}
