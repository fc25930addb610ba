/** The orderly end of a process on SIGTERM or SIGINT, and its end when the one that must outlive it is gone. */
import type { Logger } from 'pino';

const FORCE_MS = 15_000;

/** Runs `close` once; ends with 0, or with 1 where it fails or takes longer than 15 s. */
export function onShutdown(log: Logger, close: () => Promise<void>): void {
  let closing = false;
  const end = (signal: string) => {
    if (closing) return;
    closing = true;
    log.info({ signal }, 'ending');
    setTimeout(() => process.exit(1), FORCE_MS).unref();
    close().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'did not end cleanly');
        process.exit(1);
      },
    );
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => end(signal));
}
