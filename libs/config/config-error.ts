/**
 * The error of everything that is wrong with settings. It carries the exit status that tells a service supervisor that
 * starting again without a change will not help (EX_CONFIG of sysexits.h). Messages never hold a value from the file:
 * it may be a secret.
 */

/** One thing that is wrong: where (RFC 6901 pointer into the file) and what. */
export interface ConfigProblem {
  pointer: string;
  message: string;
}

export type ConfigErrorCode = 'config_missing' | 'config_unreadable' | 'config_malformed' | 'config_invalid';

export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  /** EX_CONFIG. */
  readonly exitCode = 78;
  constructor(
    readonly code: ConfigErrorCode,
    /** The file that was read or looked for. */
    readonly file: string,
    message: string,
    readonly problems: ConfigProblem[] = [],
  ) {
    super(`${file}: ${[message, ...problems.map((p) => `  ${p.pointer || '/'}: ${p.message}`)].join('\n')}`);
  }
}
