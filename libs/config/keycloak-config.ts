/** The settings of the Keycloak in which Rhyzome keeps tenants' people and programs, and its client's secret. */
import { readFileSync } from 'node:fs';
import { ConfigError } from './config-error.js';
import { integer, list, object, oneOf, optional, path, required, type Shape, text, url } from './shape.js';

export interface KeycloakConfig {
  /** Where its admin API is reached, without a slash at the end; with Keycloak's relative path, where it has one. */
  url: string;
  /** What users reach it as, the beginning of its issuers; default: `url`. */
  publicUrl?: string;
  /** The realm that the client is in. */
  adminRealm: string;
  clientId: string;
  /** A secret. Exactly one of this and clientSecretFile is there. */
  clientSecret?: string;
  /** A file that holds the secret alone, absolute; read again for every token, so that it can be changed. */
  clientSecretFile?: string;
  /** How tenants are kept that are made without another word. */
  mode: 'realm' | 'organization';
  /** The realm of all tenants in organization mode. */
  sharedRealm: string;
  /** Before a tenant's id in its realm's name. */
  realmPrefix: string;
  /** Where the console's login may lead back to. */
  redirectUris: string[];
  /** Authority of the admin API's certificate, where the system does not know it; absolute. */
  caFile?: string;
  /** The longest that one call of the admin API may take. */
  timeoutMs: number;
}

const realmName = () => text({ pattern: /^[a-z0-9][a-z0-9._-]{0,62}$/i, expected: 'the name of a realm' });

/** A client's secret goes there: not over the network in clear. */
const adminUrl: Shape<string> = (value, place) => {
  const given = url()(value, place);
  if (given === undefined) return given;
  const { protocol, hostname } = new URL(given);
  if (protocol === 'http:' && !/^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname))
    place.problems.push({ pointer: place.pointer, message: 'must be https; plain http is for loopback only' });
  return given;
};

const redirectUri: Shape<string> = (value, place) => {
  const given = text()(value, place);
  if (given !== undefined && !/^https?:\/\/[^*\s]+\*?$/.test(given))
    place.problems.push({
      pointer: place.pointer,
      message: 'must be an http or https URL, at most with a * at its end',
    });
  return given;
};

const members = object<KeycloakConfig>({
  url: required(adminUrl),
  publicUrl: optional(url()),
  adminRealm: optional(realmName(), () => 'master'),
  clientId: required(text()),
  clientSecret: optional(text()),
  clientSecretFile: optional(path()),
  mode: optional(oneOf('realm', 'organization'), () => 'realm'),
  sharedRealm: optional(realmName(), () => 'rhyzome'),
  realmPrefix: optional(
    text({ pattern: /^[a-z0-9][a-z0-9._-]{0,31}$/i, expected: 'up to 32 letters, digits, ".", "_" or "-"' }),
  ),
  redirectUris: optional(list(redirectUri, 16)),
  caFile: optional(path()),
  timeoutMs: optional(integer(100, 300_000), () => 15_000),
});

export const keycloakShape: Shape<KeycloakConfig> = (value, place) => {
  const given = members(value, place);
  if (!given) return given;
  if ((given.clientSecret === undefined) === (given.clientSecretFile === undefined))
    place.problems.push({ pointer: place.pointer, message: 'needs one of clientSecret and clientSecretFile' });
  return { ...given, realmPrefix: given.realmPrefix ?? '', redirectUris: given.redirectUris ?? [] };
};

/** The secret of the client. Throws ConfigError where its file cannot be read or is empty. */
export function keycloakSecret(config: KeycloakConfig): string {
  if (config.clientSecret !== undefined) return config.clientSecret;
  const file = config.clientSecretFile!;
  let secret: string;
  try {
    secret = readFileSync(file, 'utf8').trim();
  } catch (cause) {
    throw new ConfigError('config_unreadable', file, `cannot be read (${(cause as NodeJS.ErrnoException).code})`);
  }
  if (secret === '') throw new ConfigError('config_unreadable', file, 'is empty; it should hold the client’s secret');
  return secret;
}
