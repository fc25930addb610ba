/**
 * Credentials that follow their files: a renewed certificate is used for the next handshake without a restart, a bad new
 * file is told and the old set kept. Polls by stat, because renames, bind mounts and symbolic links (as Kubernetes swaps
 * secrets) all show there and not all of them in inotify.
 */
import { stat } from 'node:fs/promises';
import { type CredentialPaths, type Credentials, loadCredentials } from './credentials.js';
import type { PkiError } from './errors.js';
import type { ShownCertificate } from './revocations.js';

export interface WatchOptions {
  /** Called with each new, good set. */
  onChange?: (credentials: Credentials) => void;
  /** Called once for each state of the files that cannot be used; the set before stays in use. */
  onRefused?: (error: PkiError) => void;
  /** How often to look (ms). */
  intervalMs?: number;
}

/** A set of credentials with its successors. */
export interface CredentialsSource {
  readonly current: Credentials;
  /** Calls back on every new set, not with the present one. Returns its end. */
  subscribe(listener: (credentials: Credentials) => void): () => void;
  /** Looks now; resolves when a change, if any, was taken or refused. */
  check(): Promise<void>;
  close(): void;
  /** Why a peer's certificate is not to be believed although its CA signed it; absent: nothing is known of any. */
  refusalOf?(shown: ShownCertificate): PkiError | undefined;
  /** Calls back when more may be refused than before, so that connections that stand are looked at again. Returns its end. */
  watchRefusals?(listener: () => void): () => void;
}

/** Loads once (throws PkiError when that set cannot be used), then keeps looking. The timer keeps no process alive. */
export async function watchCredentials(paths: CredentialPaths, options: WatchOptions = {}): Promise<CredentialsSource> {
  const signature = await signatureOf(paths);
  const source = new FileCredentials(await loadCredentials(paths), signature, options);
  return source;
}

/** A source that never changes, for tests and one-off commands. */
export function fixedCredentials(credentials: Credentials): CredentialsSource {
  return { current: credentials, subscribe: () => () => {}, check: async () => {}, close: () => {} };
}

/** The same credentials, with what is known of others'. */
export function refusingBy(
  source: CredentialsSource,
  refusals: Pick<CredentialsSource, 'refusalOf' | 'watchRefusals'> & Partial<Pick<CredentialsSource, 'subscribe'>>,
): CredentialsSource {
  return {
    get current() {
      return source.current;
    },
    subscribe: (listener) => source.subscribe(listener),
    check: () => source.check(),
    close: () => source.close(),
    ...refusals,
  };
}

class FileCredentials implements CredentialsSource {
  private readonly listeners = new Set<(credentials: Credentials) => void>();
  private readonly timer: NodeJS.Timeout;
  private checking: Promise<void> | undefined;

  constructor(
    public current: Credentials,
    private signature: string,
    private readonly options: WatchOptions,
  ) {
    if (options.onChange) this.listeners.add(options.onChange);
    this.timer = setInterval(() => void this.check(), options.intervalMs ?? 1000).unref();
  }

  subscribe(listener: (credentials: Credentials) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  check(): Promise<void> {
    this.checking ??= this.look().finally(() => {
      this.checking = undefined;
    });
    return this.checking;
  }

  close(): void {
    clearInterval(this.timer);
    this.listeners.clear();
  }

  private async look(): Promise<void> {
    const signature = await signatureOf(this.current.paths);
    if (signature === this.signature) return;
    this.signature = signature;
    let next: Credentials;
    try {
      next = await loadCredentials(this.current.paths);
    } catch (error) {
      this.options.onRefused?.(error as PkiError);
      return;
    }
    this.current = next;
    for (const listener of this.listeners) listener(next);
  }
}

/** Changes whenever one of the files was replaced or written. */
async function signatureOf(paths: CredentialPaths): Promise<string> {
  const parts = [paths.ca, paths.cert, paths.key].map(async (file) => {
    try {
      const { ino, size, mtimeMs, ctimeMs, dev } = await stat(file);
      return `${dev}:${ino}:${size}:${mtimeMs}:${ctimeMs}`;
    } catch (error) {
      return String((error as NodeJS.ErrnoException).code);
    }
  });
  return (await Promise.all(parts)).join('|');
}
