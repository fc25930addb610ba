/**
 * What Rhyzome asks of the identity provider that keeps tenants' people and programs: a place of its own for each tenant,
 * and who may log in there. Jobs and the command use it; nothing on the way of a request does. Every call is idempotent:
 * done again, it ends in the same state and gives the same answer.
 */
import { RhyzomeError } from '#libs/core';
import type { PasswordHash } from './one-time-password.js';

/** `realm`: a realm of the tenant's own. `organization`: one organization in a realm that tenants share. */
export type LoginPlaceMode = 'realm' | 'organization';

/** Where a tenant's people log in. */
export interface LoginPlace {
  tenantId: string;
  mode: LoginPlaceMode;
  displayName: string;
}

export const loginRoles = ['admin', 'operator', 'viewer'] as const;
export type LoginRole = (typeof loginRoles)[number];

export interface LoginUser {
  /** The login name; unique in the tenant. */
  name: string;
  email?: string | null;
  firstName?: string | null;
  lastName?: string | null;
  enabled: boolean;
  /** Null: none; what was there is taken away. */
  role: LoginRole | null;
  /** Names of groups that exist; the user leaves others of the tenant. */
  groups: readonly string[];
  /** One-time: has to be changed at the next login. The same one again changes nothing, whatever the user has set since. */
  password?: PasswordHash;
}

/** A program that logs in by private_key_jwt (RFC 7523) with keys whose private halves only its owner has. */
export interface LoginProgram {
  name: string;
  /** Public keys, a JSON Web Key Set (RFC 7517, section 5). */
  jwks: object;
}

/** A place that this installation made, as the provider names it: there need be no such tenant any more. */
export type KeptPlace = Pick<LoginPlace, 'tenantId' | 'mode'>;

/** `program`: what LoginProgram is. */
export type AccountSort = 'user' | 'group' | 'program';

/** What this installation made in a place. Its name is the one that it was put with. */
export interface KeptAccount {
  sort: AccountSort;
  name: string;
}

/**
 * All calls throw RhyzomeError: `identity_provider_unavailable` (retryable) while the provider is away or does not answer
 * in time, `conflict` where something of the same name is there that this installation did not make, which is neither
 * changed nor removed, and `internal` where the provider refuses what it should not. Removals of what is gone succeed.
 */
export interface IdentityProvider {
  /**
   * Makes the place, or brings one of this installation's to what it should be: roles, clients for people (public: code
   * with PKCE, device flow), the client scope with audience and groups, and an optional client scope for each of `scopes`.
   */
  putPlace(place: LoginPlace, scopes: readonly string[], signal?: AbortSignal): Promise<PlaceAddress>;
  /** Adds what is missing of the Rhyzome scopes (`kind:verb`); none is taken away from clients that may use it. */
  putScopes(place: LoginPlace, scopes: readonly string[], signal?: AbortSignal): Promise<void>;
  /** Disabled: nobody can log in, and sessions that were there give no more tokens. */
  setPlaceEnabled(place: LoginPlace, enabled: boolean, signal?: AbortSignal): Promise<void>;
  /** With everything in it. */
  removePlace(place: LoginPlace, signal?: AbortSignal): Promise<void>;
  /** Throws `not_found` where a group is missing. */
  putUser(place: LoginPlace, user: LoginUser, signal?: AbortSignal): Promise<{ subject: string }>;
  removeUser(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void>;
  /** Refresh tokens of the user give no more access tokens. */
  endSessions(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void>;
  putGroup(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void>;
  removeGroup(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void>;
  putProgram(
    place: LoginPlace,
    program: LoginProgram,
    signal?: AbortSignal,
  ): Promise<{ subject: string; clientId: string }>;
  removeProgram(place: LoginPlace, name: string, signal?: AbortSignal): Promise<void>;
  /** All places of this installation. What somebody else made is never among them. */
  listPlaces(signal?: AbortSignal): AsyncIterable<KeptPlace>;
  /** All that this installation made in the place, some at a time; nothing where there is no such place of its own. */
  listAccounts(place: KeptPlace, signal?: AbortSignal): AsyncIterable<KeptAccount[]>;
}

export interface PlaceAddress {
  /** Exactly as in the tokens' `iss`. */
  issuer: string;
  /** What the tokens' claim `organization` says; null in realm mode. */
  organization: string | null;
}

let provided: IdentityProvider | undefined;

/** Says which provider this process works with, once at its start; undefined: none. */
export function provideIdentity(provider: IdentityProvider | undefined): void {
  provided = provider;
}

/** Whether `identity()` gives one. */
export function hasIdentity(): boolean {
  return provided !== undefined;
}

/** Throws RhyzomeError `identity_provider_unavailable` where none is provided. */
export function identity(): IdentityProvider {
  if (provided) return provided;
  throw new RhyzomeError(
    'identity_provider_unavailable',
    'This installation keeps no people or programs of tenants (“keycloak” is not set).',
  );
}
