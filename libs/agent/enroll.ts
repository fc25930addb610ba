/**
 * Makes this machine a node: makes its key, which never leaves it, and trades a one-time token for a certificate. May be
 * killed anywhere and run again with the same token.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RhyzomeError } from '#libs/core';
import {
  type CredentialPaths,
  type Credentials,
  fingerprintOf,
  finishInstall,
  installNext,
  loadCredentials,
  PkiError,
  parseFingerprint,
  pickByFingerprint,
  requestForNextKey,
} from '#libs/pki';
import { enrollmentCaller, isUnavailable, problemOf } from '#libs/rpc';
import { readJson, writeJsonDurably } from './durable.js';

export interface EnrollOptions {
  /** Where rhyzome-grpc enrolls: host:port, or unix:/path. */
  controller: string;
  /** What the controller's certificate must hold for; default: the host in `controller`. */
  serverName?: string;
  token: string;
  /** Of the CA, as `rhyzome node enroll` shows it. */
  caFingerprint: string;
  /** Which node the token must be for; default: whichever it is for. */
  nodeName?: string;
  /** Where key, certificate and CA are written. */
  paths: CredentialPaths;
  stateDir: string;
  /** Enroll again although there is a certificate that can be used. */
  force?: boolean;
  /** Told before it waits, because the controller says that too many ask at once. */
  onWait?(seconds: number): void;
}

/** Many machines behind one address are one for the controller's limit: in this time some 150 of them come in. */
const PATIENCE_MS = 300_000;

export interface Enrollment {
  credentials: Credentials;
  /** False: the machine was enrolled already, and nothing was done. */
  isNew: boolean;
}

/** Throws EnrollmentError or PkiError, with what to do. */
export async function enrollMachine(options: EnrollOptions): Promise<Enrollment> {
  const { paths, nodeName = '' } = options;
  const fingerprint = parseFingerprint(options.caFingerprint);
  if (!fingerprint) throw new EnrollmentError('The CA’s fingerprint must be “sha256:” and 64 hex digits.');
  await finishInstall(paths);
  const present = options.force ? undefined : await usable(paths, fingerprint, nodeName);
  if (present) return { credentials: present, isNew: false };
  const request = await requestForNextKey(paths);
  const caller = enrollmentCaller(options.controller, options.serverName);
  const answer = await asking(options, async () => {
    const ca = pickByFingerprint(await caller.trustAnchors(), fingerprint);
    return caller.enroll(ca, { token: options.token, request, nodeName });
  });
  await mkdir(options.stateDir, { recursive: true, mode: 0o755 });
  await writeJsonDurably(labelsFile(options.stateDir), answer.labels);
  const { certificate, ca } = answer;
  const credentials = await installNext(paths, { certificate, ca }, ({ identity }) => {
    if (identity.type === 'node' && identity.name === answer.nodeName) return;
    throw new EnrollmentError(`The controller gave a certificate of the ${identity.type} ${identity.name}.`);
  });
  return { credentials, isNew: true };
}

/** The labels that the administrator gave with the token; none for a machine that did not enroll. */
export async function enrolledLabels(stateDir: string): Promise<Record<string, string>> {
  return (await readJson<Record<string, string>>(labelsFile(stateDir))) ?? {};
}

function labelsFile(stateDir: string): string {
  return join(stateDir, 'labels.json');
}

/** What enrolling cannot get over; the message says what to do. */
export class EnrollmentError extends Error {
  override readonly name = 'EnrollmentError';
}

/** Credentials of this CA that an agent could run with. */
async function usable(paths: CredentialPaths, fingerprint: string, nodeName: string): Promise<Credentials | undefined> {
  let found: Credentials;
  try {
    found = await loadCredentials(paths);
    if ((await fingerprintOf(paths.ca)) !== fingerprint) return undefined;
  } catch (error) {
    if (error instanceof PkiError) return undefined; // Whatever is wrong with them, new ones take their place.
    throw error;
  }
  const { type, name } = found.identity;
  return type === 'node' && (nodeName === '' || nodeName === name) ? found : undefined;
}

async function asking<Answer>({ controller, onWait }: EnrollOptions, ask: () => Promise<Answer>): Promise<Answer> {
  const end = Date.now() + PATIENCE_MS;
  while (true) {
    try {
      return await ask();
    } catch (error) {
      const problem = problemOf(error);
      if (!(problem instanceof RhyzomeError)) throw notAnswered(controller, error);
      // Those who wait behind the same address are not to come back in the same moment. Whoever answers may be a stranger.
      const seconds = Math.max(1, Number(problem.details.retryAfterSeconds)) * (1 + Math.random());
      const mayWait = problem.code === 'too_many_requests' && Date.now() + seconds * 1000 <= end;
      if (!mayWait) throw new EnrollmentError(problem.message, { cause: error });
      onWait?.(seconds);
      await sleep(seconds * 1000);
    }
  }
}

function notAnswered(controller: string, error: unknown): unknown {
  if (error instanceof PkiError || !(error instanceof Error)) return error;
  const advice = isUnavailable(error)
    ? 'Is it the address of “grpc.enrollment” (not of “grpc.listen”), can this machine reach it, and does the controller’s certificate hold for that host (--server-name)?'
    : 'Look into the log of rhyzome-grpc.';
  return new EnrollmentError(`${controller} does not enroll this machine: ${error.message}. ${advice}`, {
    cause: error,
  });
}
