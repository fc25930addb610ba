/** What the command ends with, and how an error becomes a line that says what to do. Never prints a secret. */

export const exitStatus = {
  ok: 0,
  refused: 1,
  usage: 2,
  notFound: 3,
  databaseAway: 4,
  configuration: 78,
} as const;

export type ExitStatus = (typeof exitStatus)[keyof typeof exitStatus];

/** For the help and the reference. */
export const exitStatusHelp = `Exit status:
  0   done
  1   refused: it conflicts with what is there, or something went wrong on the way
  2   wrong command line or wrong value
  3   what was named does not exist
  4   the database is away
  78  the settings are missing or wrong`;

/** A refusal of the command itself. */
export class CliError extends Error {
  override readonly name = 'CliError';
  constructor(
    readonly status: ExitStatus,
    readonly code: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export interface ToldError {
  status: ExitStatus;
  code: string;
  message: string;
  /** Further members of the JSON form. */
  details?: Record<string, unknown>;
}

interface Coded extends Error {
  code?: unknown;
  details?: { blockers?: unknown[]; errors?: unknown[]; extensions?: { more?: number } };
}

const byCode: Record<string, ExitStatus> = {
  not_found: exitStatus.notFound,
  invalid: exitStatus.usage,
  image_refused: exitStatus.usage,
  database_unavailable: exitStatus.databaseAway,
};

/** SQLSTATEs that an administrator meets, with what to do. */
const bySqlState: Record<string, ToldError> = {
  '3D000': {
    status: exitStatus.databaseAway,
    code: 'database_missing',
    message: 'The database does not exist. `rhyzome db reset` creates it.',
  },
  '28P01': {
    status: exitStatus.configuration,
    code: 'login_refused',
    message: 'PostgreSQL refuses the login: check user and password of the connection in the settings.',
  },
  '28000': {
    status: exitStatus.configuration,
    code: 'login_refused',
    message: 'PostgreSQL refuses the login: check its user in the settings, and pg_hba.conf.',
  },
  '42501': {
    status: exitStatus.configuration,
    code: 'login_may_not',
    message:
      'The login may not take on the role that this needs. Name one that may as dbOperator (dbOwner for `rhyzome db`) in the settings.',
  },
  '55P03': {
    status: exitStatus.refused,
    code: 'locked',
    message: 'Somebody else holds what this needs for longer than 10 s: try again, or stop the servers first.',
  },
  '22023': {
    status: exitStatus.refused,
    code: 'role_missing',
    message: 'Rhyzome’s roles are missing or the login may not take them on: run `rhyzome db migrate`.',
  },
  '42P01': {
    status: exitStatus.refused,
    code: 'not_migrated',
    message: 'The database has not been migrated: run `rhyzome db migrate`.',
  },
};

/** How an error is told; undefined for one that nobody foresaw. Known by its members, so that no library is loaded here. */
export function tellError(caught: unknown): ToldError | undefined {
  if (caught instanceof CliError) return { status: caught.status, code: caught.code, message: caught.message };
  if (!(caught instanceof Error)) return undefined;
  const error = caught as Coded;
  const code = typeof error.code === 'string' ? error.code : undefined;
  switch (error.name) {
    case 'RhyzomeError':
      return {
        status: byCode[code ?? ''] ?? exitStatus.refused,
        code: code ?? 'internal',
        message: error.message,
        details: {
          ...(error.details?.blockers && { blockers: error.details.blockers }),
          ...(error.details?.errors && { errors: error.details.errors }),
          ...error.details?.extensions,
        },
      };
    case 'ConfigError':
    case 'ConnectionStringError':
    case 'PkiError':
      return { status: exitStatus.configuration, code: code ?? 'config_invalid', message: error.message };
    case 'LoginError':
      return { status: exitStatus.refused, code: code ?? 'login_refused', message: error.message };
    case 'MigrationError':
      return { status: exitStatus.refused, code: `migration_${code}`, message: error.message };
  }
  // libs/db says what the administrator of the PostgreSQL has to run.
  if ((error.cause as Coded | undefined)?.code === '42501')
    return { status: exitStatus.configuration, code: 'login_may_not', message: error.message };
  return code === undefined ? undefined : bySqlState[code];
}
