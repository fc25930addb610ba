/**
 * How many requests a tenant, one of its users, and an address without valid credentials may send: token buckets of this
 * replica alone, in bounded memory. Asked before anything reaches the database. What is left is told with each answer
 * (RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-10).
 */
import { isIPv6 } from 'node:net';
import { RhyzomeError } from '#libs/core';

/** Whoever has been silent for longest is forgotten first; a bucket that is forgotten is a full one. */
const MAX_BUCKETS = 50_000;

interface Bucket {
  tokens: number;
  /** When it had them, in milliseconds. */
  at: number;
}

/** What a request finds of one policy, after it was counted. */
export interface Allowance {
  policy: string;
  /** Requests that may follow at once. */
  remaining: number;
  /** Seconds until the bucket is full again. */
  resetSeconds: number;
  /** Undefined: the request may pass; else seconds until one may. */
  retryAfterSeconds?: number;
}

/** The buckets of one policy: `burst` at once, `perSecond` in the long run. */
export class TokenBuckets {
  private readonly buckets = new Map<string, Bucket>();

  constructor(
    readonly policy: string,
    readonly perSecond: number,
    readonly burst: number,
    private readonly nowMs: () => number = () => performance.now(),
    private readonly maxBuckets = MAX_BUCKETS,
  ) {}

  get size(): number {
    return this.buckets.size;
  }

  /** Counts a request of `key`; one that is over the limit costs nothing. */
  take(key: string): Allowance {
    const bucket = this.filled(key);
    const passes = bucket.tokens >= 1;
    if (passes) bucket.tokens -= 1;
    this.buckets.delete(key);
    this.buckets.set(key, bucket);
    if (this.buckets.size > this.maxBuckets) this.buckets.delete(this.buckets.keys().next().value as string);
    return {
      policy: this.policy,
      remaining: Math.floor(bucket.tokens),
      resetSeconds: Math.ceil((this.burst - bucket.tokens) / this.perSecond),
      ...(!passes && { retryAfterSeconds: Math.max(1, Math.ceil((1 - bucket.tokens) / this.perSecond)) }),
    };
  }

  private filled(key: string): Bucket {
    const at = this.nowMs();
    const known = this.buckets.get(key);
    if (!known) return { tokens: this.burst, at };
    const gained = ((at - known.at) / 1000) * this.perSecond;
    return { tokens: Math.min(this.burst, known.tokens + gained), at };
  }

  /** As in RateLimit-Policy: so many in the time in which an empty bucket fills. */
  get described(): string {
    return `"${this.policy}";q=${this.burst};w=${Math.ceil(this.burst / this.perSecond)}`;
  }
}

/** Sets a header of the answer. */
export type SetHeader = (name: string, value: string) => void;

/** So many requests a second in the long run, `…Burst` at once. */
export interface RateLimits {
  tenantPerSecond: number;
  tenantBurst: number;
  userPerSecond: number;
  userBurst: number;
  /** Without valid credentials. */
  addressPerSecond: number;
  addressBurst: number;
}

export class RateLimiter {
  private readonly tenants: TokenBuckets;
  private readonly users: TokenBuckets;
  private readonly addresses: TokenBuckets;
  /** Requests that were refused, by policy, since the start. */
  readonly refused: Record<string, number> = { tenant: 0, user: 0, address: 0 };

  constructor(config: RateLimits, nowMs?: () => number) {
    this.tenants = new TokenBuckets('tenant', config.tenantPerSecond, config.tenantBurst, nowMs);
    this.users = new TokenBuckets('user', config.userPerSecond, config.userBurst, nowMs);
    this.addresses = new TokenBuckets('address', config.addressPerSecond, config.addressBurst, nowMs);
  }

  /** Counts the request of a user. Throws RhyzomeError `too_many_requests`. */
  countUser(actor: { tenantId: string; subject: string }, setHeader: SetHeader): void {
    // A user who is over his own limit uses nothing of what his tenant has.
    const user = this.users.take(`${actor.tenantId}/${actor.subject}`);
    const allowances = user.retryAfterSeconds === undefined ? [this.tenants.take(actor.tenantId), user] : [user];
    this.tell([this.tenants, this.users], allowances, setHeader);
  }

  /** Counts a request without valid credentials. Throws RhyzomeError `too_many_requests`. */
  countAddress(address: string, setHeader: SetHeader): void {
    this.tell([this.addresses], [this.addresses.take(addressKey(address))], setHeader);
  }

  private tell(policies: readonly TokenBuckets[], allowances: readonly Allowance[], setHeader: SetHeader): void {
    setHeader('ratelimit-policy', policies.map(({ described }) => described).join(', '));
    setHeader(
      'ratelimit',
      allowances
        .map(({ policy, remaining, resetSeconds }) => `"${policy}";r=${remaining};t=${resetSeconds}`)
        .join(', '),
    );
    const over = allowances.find(({ retryAfterSeconds }) => retryAfterSeconds !== undefined);
    if (!over) return;
    this.refused[over.policy]! += 1;
    throw new RhyzomeError('too_many_requests', `More requests than the limit per ${over.policy} allows; wait.`, {
      retryAfterSeconds: over.retryAfterSeconds,
      extensions: { policy: over.policy },
    });
  }
}

/** An IPv6 host has a /64 to itself, and as many addresses as it likes. */
export function addressKey(address: string): string {
  if (!isIPv6(address) || /^::ffff:\d+\.\d+\.\d+\.\d+$/i.test(address)) return address;
  const [head = '', tail] = address.split('%')[0]!.split('::');
  const before = head === '' ? [] : head.split(':');
  if (tail === undefined) return before.slice(0, 4).join(':');
  const after = tail === '' ? [] : tail.split(':');
  const zeros = Array<string>(Math.max(0, 8 - before.length - after.length)).fill('0');
  return [...before, ...zeros, ...after].slice(0, 4).join(':');
}
