/** What is told of a stream that did not come about, and whether trying again soon could help. */
import { problemOf } from '#libs/rpc';
import { ForeignInstallationError } from './installation.js';

/** What trying again soon cannot change: another installation, a certificate that is not let in. */
export function isRefusal(error: unknown): boolean {
  const code = problemOf(error)?.code;
  return error instanceof ForeignInstallationError || code === 'forbidden' || code === 'unauthenticated';
}

export function reasonOf(error: unknown): string {
  return problemOf(error)?.message ?? (error instanceof Error ? error.message : String(error));
}
