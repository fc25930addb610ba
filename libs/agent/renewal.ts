/**
 * Renews the agent's certificate when two thirds of its life are over, a little later on each machine, and tries until it
 * has one. What it cannot mend (a controller without an issuer, a certificate that has expired) it tells ever louder.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DriverLog } from '#libs/drivers/contract';
import type { Credentials, CredentialsSource, ShownCertificate } from '#libs/pki';
import { problemOf, type RenewalTarget, renewCertificate } from '#libs/rpc';
import { reasonOf } from './reasons.js';
import { type BackOff, backOffMs } from './schedule.js';

export interface RenewalOptions extends Omit<RenewalTarget, 'target' | 'refusalOf'> {
  /** Where rhyzome-grpc listens; at least one. They are tried in turn. */
  targets: readonly string[];
  credentials: CredentialsSource;
  log: DriverLog;
  /** False: only tells when the end is near. */
  renews: boolean;
}

/** Renewal begins within this part of a certificate's life after two thirds of it. */
const spread = 0.05;
/** With less than this part left, what fails is an error. */
const nearEnd = 1 / 6;
/** Files may have been replaced by hand meanwhile (ms). */
const mostSleepMs = 60_000;
const dayMs = 24 * 60 * 60_000;

export class CertificateRenewal {
  private readonly ending = new AbortController();
  private running: Promise<void> = Promise.resolve();
  private readonly random = Math.random();
  private toldAt = 0;
  private at = Math.floor(Math.random() * 1000);

  constructor(private readonly options: RenewalOptions) {}

  start(): void {
    this.running = this.run();
  }

  /** Resolves when what is under way has ended. */
  async stop(): Promise<void> {
    this.ending.abort();
    await this.running;
  }

  private async run(): Promise<void> {
    let attempt = 0;
    while (!this.ending.signal.aborted) {
      const { current } = this.options.credentials;
      const waitMs = dueAt(current, this.random) - Date.now();
      if (waitMs > 0) {
        attempt = 0;
        await this.sleep(Math.min(waitMs, mostSleepMs));
      } else if (!this.options.renews) {
        this.tellEnd(current, 'the certificate ends soon, and the settings say not to renew it: bring a new one');
        await this.sleep(mostSleepMs);
      } else if (await this.tryOnce(current)) attempt = 0;
      else await this.sleep(backOffMs(attempt++, backOffOf(current)));
    }
  }

  private async tryOnce(current: Credentials): Promise<boolean> {
    const { credentials, log, targets, serverName } = this.options;
    const target = targets[this.at++ % targets.length]!;
    const refusalOf = credentials.refusalOf && ((shown: ShownCertificate) => credentials.refusalOf?.(shown));
    try {
      const { notAfter } = await renewCertificate({ target, serverName, refusalOf }, current);
      log.info({ notAfter }, 'the certificate was renewed');
      // It looks by itself, but a moment later.
      await credentials.check();
      return true;
    } catch (error) {
      if (this.ending.signal.aborted) return false;
      const reason = reasonOf(error);
      const told = { reason, notAfter: current.notAfter };
      if (Date.now() > current.notAfter.getTime())
        log.error(told, 'the certificate has expired and cannot be renewed: rhyzome-agent enroll, with a new token');
      else if (leftOf(current) < nearEnd) log.error(told, 'the certificate ends soon and cannot be renewed');
      else if (problemOf(error)?.code === 'no_issuer') this.tellEnd(current, reason);
      else log.warn(told, 'the certificate cannot be renewed; it is tried again');
      return false;
    }
  }

  /** Once a day; an error when the end is near. */
  private tellEnd(current: Credentials, message: string): void {
    if (Date.now() - this.toldAt < dayMs) return;
    this.toldAt = Date.now();
    this.options.log[leftOf(current) < nearEnd ? 'error' : 'warn']({ notAfter: current.notAfter }, message);
  }

  private async sleep(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.ending.signal }).catch(() => {}); // Only our own end aborts it.
  }
}

/** When a certificate is to be renewed; `random` from 0 to 1 (ms since the epoch). */
export function dueAt({ notBefore, notAfter }: Pick<Credentials, 'notBefore' | 'notAfter'>, random: number): number {
  const begin = notBefore.getTime();
  return begin + (notAfter.getTime() - begin) * (2 / 3 + spread * random);
}

/** The part of its life that is left. */
function leftOf({ notBefore, notAfter }: Credentials): number {
  return (notAfter.getTime() - Date.now()) / (notAfter.getTime() - notBefore.getTime());
}

/** A certificate of a month is tried every half a minute at first, and every hour in the end. */
function backOffOf({ notBefore, notAfter }: Credentials): BackOff {
  const lifeMs = notAfter.getTime() - notBefore.getTime();
  return { firstMs: Math.min(30_000, lifeMs / 100), mostMs: Math.min(3_600_000, lifeMs / 30) };
}
