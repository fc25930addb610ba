/**
 * Reads a PostgreSQL connection as libpq writes it, a keyword string or a URL, into what a pg pool takes. Follows
 * PostgreSQL's documentation, section 34.1.1; what cannot be had is refused and never ignored. No message holds a value
 * or an unknown word, since with wrong quoting any word may be part of a password.
 */
import { readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { resolve } from 'node:path';

/** A subset of pg's PoolConfig, so that this library needs no pg. */
export interface ConnectionOptions {
  /** Host name, address, or the folder of a Unix socket. */
  host: string;
  port: number;
  user: string;
  database: string;
  password?: string;
  ssl: false | ConnectionTls;
  application_name?: string;
  fallback_application_name?: string;
  /** Settings for the session, e.g. `-c statement_timeout=5s`. */
  options?: string;
  connectionTimeoutMillis?: number;
  keepAlive: boolean;
}

export interface ConnectionTls {
  rejectUnauthorized: boolean;
  ca?: string;
  cert?: string;
  key?: string;
  /** Present when the name in the certificate does not count (verify-ca). */
  checkServerIdentity?: () => undefined;
}

/** What a connection string says wrongly. Safe to print. */
export class ConnectionStringError extends Error {
  override readonly name = 'ConnectionStringError';
  readonly code = 'connection_string_invalid';
}

const sslModes = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'];
const known = [
  ...['host', 'port', 'dbname', 'user', 'password', 'sslmode', 'sslrootcert', 'sslcert', 'sslkey'],
  ...['application_name', 'fallback_application_name', 'connect_timeout', 'options', 'keepalives', 'client_encoding'],
];
/** Keywords of libpq that mean something that this server cannot do. Saying so is kinder than calling them unknown. */
const unsupported = [
  ...['hostaddr', 'passfile', 'service', 'servicefile', 'target_session_attrs', 'load_balance_hosts', 'replication'],
  ...['channel_binding', 'require_auth', 'sslpassword', 'sslcrl', 'sslcrldir', 'sslnegotiation', 'sslcertmode'],
  ...['gssencmode', 'krbsrvname', 'gsslib', 'gssdelegation', 'requirepeer', 'tcp_user_timeout', 'sslcompression'],
  ...['ssl_min_protocol_version', 'ssl_max_protocol_version', 'sslsni', 'keepalives_idle', 'keepalives_interval'],
  ...['keepalives_count', 'requiressl', 'sslkeylogfile'],
];

/**
 * Takes `dbname=… host=… sslmode=…` or `postgresql://…`. Missing parts get libpq's defaults: the user who runs this, a
 * database of the same name, the socket in /var/run/postgresql, port 5432. Where sslmode is missing, `prefer` or `allow`,
 * there is no TLS on a socket or to this machine and TLS without proof of the name elsewhere: clear text is never fallen
 * back to. Relative paths of certificates start from `folder`. Throws ConnectionStringError.
 */
export function parseConnection(connection: string, folder = process.cwd()): ConnectionOptions {
  const fields = /^postgres(ql)?:\/\//.test(connection) ? fieldsOfUrl(connection) : fieldsOfKeywords(connection);
  const user = fields.get('user') || userInfo().username;
  const host = fields.get('host') || '/var/run/postgresql';
  if (host.includes(',') || fields.get('port')?.includes(','))
    throw new ConnectionStringError('several hosts are not supported: name one');
  const encoding = fields.get('client_encoding');
  if (encoding && !/^(utf-?8|auto)$/i.test(encoding)) throw new ConnectionStringError('client_encoding must be UTF8');
  const timeoutSeconds = wholeNumber(fields, 'connect_timeout', 0, 3600);
  return {
    host,
    port: wholeNumber(fields, 'port', 1, 65535) ?? 5432,
    user,
    database: fields.get('dbname') || user,
    ssl: tls(fields, host, folder),
    keepAlive: fields.get('keepalives') !== '0',
    ...present('password', fields.get('password')),
    ...present('application_name', fields.get('application_name')),
    ...present('fallback_application_name', fields.get('fallback_application_name')),
    ...present('options', fields.get('options')),
    ...(timeoutSeconds ? { connectionTimeoutMillis: timeoutSeconds * 1000 } : {}),
  };
}

/** The connection in words for logs: never the password, nor anything but user, host, port and database. */
export function describeConnection(connection: ConnectionOptions): string {
  const where = connection.host.startsWith('/') ? `the socket in ${connection.host}` : connection.host;
  return `database ${connection.database} as ${connection.user} at ${where}, port ${connection.port}`;
}

function present<K extends string>(key: K, value: string | undefined): { [P in K]?: string } {
  return (value ? { [key]: value } : {}) as { [P in K]?: string };
}

/** `keyword = value` with optional blanks; values with blanks in single quotes; \' and \\ for themselves. */
function fieldsOfKeywords(connection: string): Map<string, string> {
  const fields = new Map<string, string>();
  const pair = /\s*([^\s=]+)\s*=\s*('(?:[^'\\]|\\[\s\S])*'|(?:[^\s'\\]|\\[\s\S])(?:[^\s\\]|\\[\s\S])*|)(?=\s|$)/y;
  const end = connection.trimEnd().length;
  while (pair.lastIndex < end) {
    const match = pair.exec(connection);
    if (!match)
      throw new ConnectionStringError(
        `keyword ${fields.size + 1} is not of the form keyword=value; a value with blanks stands in single quotes`,
      );
    const raw = match[2] ?? '';
    const value = raw.startsWith("'") ? raw.slice(1, -1) : raw;
    add(fields, match[1] ?? '', value.replaceAll(/\\([\s\S])/g, '$1'));
  }
  if (fields.size === 0) throw new ConnectionStringError('it is empty');
  return fields;
}

/** `postgresql://[user[:password]@][host][:port][/dbname][?keyword=value&…]`, every part percent-encoded. */
function fieldsOfUrl(connection: string): Map<string, string> {
  const match = /^[a-z]+:\/\/(?:([^@/?#]*)@)?([^/?#@]*)(?:\/([^/?#]*))?(?:\?([^#]*))?$/.exec(connection);
  if (!match)
    throw new ConnectionStringError('the URL is malformed; @ : / ? and # in a user or password are percent-encoded');
  const [, userInfoPart, hostPart = '', database, query] = match;
  const fields = new Map<string, string>();
  if (userInfoPart) {
    const [user = '', ...password] = userInfoPart.split(':');
    if (user) fields.set('user', decode(user));
    if (password.length > 0) fields.set('password', decode(password.join(':')));
  }
  const host = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(hostPart);
  if (!host) throw new ConnectionStringError('the host and port of the URL are malformed');
  if (host[1]) fields.set('host', decode(host[1].replace(/^\[(.*)\]$/, '$1')));
  if (host[2]) fields.set('port', host[2]);
  if (database) fields.set('dbname', decode(database));
  for (const part of query?.split('&').filter(Boolean) ?? []) {
    const [key = '', value, ...more] = part.split('=');
    if (value === undefined || more.length > 0)
      throw new ConnectionStringError('a parameter of the URL is not of the form keyword=value');
    add(fields, decode(key), decode(value));
  }
  return fields;
}

function add(fields: Map<string, string>, key: string, value: string): void {
  if (unsupported.includes(key)) throw new ConnectionStringError(`the keyword ${key} is not supported`);
  if (!known.includes(key))
    throw new ConnectionStringError(`keyword ${fields.size + 1} is not known; known are ${known.join(', ')}`);
  fields.set(key, value);
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    // The cause would quote the part, which may be the password.
    throw new ConnectionStringError('a part of the URL is not percent-encoded correctly');
  }
}

function wholeNumber(fields: Map<string, string>, key: string, min: number, max: number): number | undefined {
  const given = fields.get(key);
  if (!given) return undefined;
  const value = /^\d{1,9}$/.test(given) ? Number(given) : Number.NaN;
  if (!(value >= min && value <= max)) throw new ConnectionStringError(`${key} must be a number from ${min} to ${max}`);
  return value;
}

function tls(fields: Map<string, string>, host: string, folder: string): false | ConnectionTls {
  const mode = fields.get('sslmode') || 'prefer';
  if (!sslModes.includes(mode)) throw new ConnectionStringError(`sslmode must be one of ${sslModes.join(', ')}`);
  const here = ['localhost', '127.0.0.1', '::1'].includes(host);
  if (host.startsWith('/') || mode === 'disable' || (here && (mode === 'prefer' || mode === 'allow'))) return false;
  const root = fields.get('sslrootcert');
  // As in libpq: `require` with a root certificate at hand verifies the chain.
  const verifies = mode === 'verify-full' || mode === 'verify-ca' || (mode === 'require' && Boolean(root));
  return {
    rejectUnauthorized: verifies,
    ...(root && root !== 'system' ? { ca: readPem(root, 'sslrootcert', folder) } : {}),
    ...(fields.get('sslcert') ? { cert: readPem(fields.get('sslcert') ?? '', 'sslcert', folder) } : {}),
    ...(fields.get('sslkey') ? { key: readPem(fields.get('sslkey') ?? '', 'sslkey', folder) } : {}),
    ...(verifies && mode !== 'verify-full' ? { checkServerIdentity: () => undefined } : {}),
  };
}

function readPem(file: string, keyword: string, folder: string): string {
  try {
    return readFileSync(resolve(folder, file), 'utf8');
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'unreadable';
    throw new ConnectionStringError(`the file of ${keyword} cannot be read (${reason})`);
  }
}
