/**
 * An identity provider in memory that behaves as the real one does, for tests of kinds: it can be away, and it can end the
 * "process" after any number of calls, before or after the call's effect.
 */
import { randomUUID } from 'node:crypto';
import { RhyzomeError } from '#libs/core';
import type {
  IdentityProvider,
  KeptAccount,
  KeptPlace,
  LoginPlace,
  LoginProgram,
  LoginUser,
  PlaceAddress,
} from './identity-provider.js';
import { type PasswordHash, passwordMark } from './one-time-password.js';

export interface MemoryUser extends Omit<LoginUser, 'password'> {
  subject: string;
  password: PasswordHash | null;
  /** True until the user has set one of their own. */
  isTemporary: boolean;
  /** How often all sessions were ended. */
  endedSessions: number;
}

export interface MemoryPlace {
  place: LoginPlace;
  enabled: boolean;
  scopes: string[];
  users: Map<string, MemoryUser>;
  groups: Set<string>;
  programs: Map<string, LoginProgram & { subject: string; clientId: string }>;
}

/** Thrown in the place of a process that dies. */
export class Died extends Error {
  override readonly name = 'Died';
}

export class MemoryIdentity implements IdentityProvider {
  /** By mode and tenant, e.g. `realm/acme`. */
  readonly places = new Map<string, MemoryPlace>();
  /** Calls that had an effect or could have had one. */
  readonly calls: string[] = [];
  /** True: every call answers that the provider is away. */
  away = false;
  private readonly foreign = new Set<string>();
  private death: { call: number; when: 'before' | 'after' } | undefined;

  constructor(readonly url = 'https://id.example') {}

  /** The `call`th call from now on (1 is the next) dies, before or after its effect; the ones after that work again. */
  dieAt(call: number, when: 'before' | 'after'): void {
    this.death = { call, when };
  }

  /** Something of the tenant's name is there that this installation did not make. */
  occupy(place: Pick<LoginPlace, 'mode' | 'tenantId'>): void {
    this.foreign.add(keyOf(place));
  }

  placeOf(tenantId: string, mode: LoginPlace['mode'] = 'realm'): MemoryPlace | undefined {
    return this.places.get(keyOf({ tenantId, mode }));
  }

  async putPlace(place: LoginPlace, scopes: readonly string[]): Promise<PlaceAddress> {
    return this.call('putPlace', place, () => {
      const key = keyOf(place);
      if (this.foreign.has(key)) throw taken(key);
      const known = this.places.get(key);
      if (known) known.place = place;
      else
        this.places.set(key, {
          place,
          enabled: true,
          scopes: [],
          users: new Map(),
          groups: new Set(),
          programs: new Map(),
        });
      this.addScopes(this.open(place), scopes);
      const realm = place.mode === 'realm' ? place.tenantId : 'shared';
      return {
        issuer: `${this.url}/realms/${realm}`,
        organization: place.mode === 'organization' ? place.tenantId : null,
      };
    });
  }

  async putScopes(place: LoginPlace, scopes: readonly string[]): Promise<void> {
    return this.call('putScopes', place, () => this.addScopes(this.open(place), scopes));
  }

  async setPlaceEnabled(place: LoginPlace, enabled: boolean): Promise<void> {
    return this.call('setPlaceEnabled', place, () => {
      this.open(place).enabled = enabled;
    });
  }

  async removePlace(place: LoginPlace): Promise<void> {
    return this.call('removePlace', place, () => {
      this.places.delete(keyOf(place));
    });
  }

  async putUser(place: LoginPlace, user: LoginUser): Promise<{ subject: string }> {
    return this.call('putUser', place, () => {
      const { users, groups } = this.open(place);
      const missing = user.groups.find((name) => !groups.has(name));
      if (missing !== undefined) throw new RhyzomeError('not_found', `There is no group ${missing}.`);
      const known = users.get(user.name);
      const { password, ...rest } = user;
      const isNew = password && (!known?.password || passwordMark(known.password) !== passwordMark(password));
      const subject = known?.subject ?? randomUUID();
      users.set(user.name, {
        ...rest,
        groups: [...user.groups],
        subject,
        password: password ?? known?.password ?? null,
        isTemporary: isNew ? true : (known?.isTemporary ?? false),
        endedSessions: known?.endedSessions ?? 0,
      });
      return { subject };
    });
  }

  async removeUser(place: LoginPlace, name: string): Promise<void> {
    return this.call('removeUser', place, () => {
      this.places.get(keyOf(place))?.users.delete(name);
    });
  }

  async endSessions(place: LoginPlace, name: string): Promise<void> {
    return this.call('endSessions', place, () => {
      const user = this.places.get(keyOf(place))?.users.get(name);
      if (user) user.endedSessions++;
    });
  }

  async putGroup(place: LoginPlace, name: string): Promise<void> {
    return this.call('putGroup', place, () => {
      this.open(place).groups.add(name);
    });
  }

  async removeGroup(place: LoginPlace, name: string): Promise<void> {
    return this.call('removeGroup', place, () => {
      const found = this.places.get(keyOf(place));
      found?.groups.delete(name);
      for (const user of found?.users.values() ?? []) user.groups = user.groups.filter((group) => group !== name);
    });
  }

  async putProgram(place: LoginPlace, program: LoginProgram): Promise<{ subject: string; clientId: string }> {
    return this.call('putProgram', place, () => {
      const { programs } = this.open(place);
      const subject = programs.get(program.name)?.subject ?? randomUUID();
      const clientId = `${place.tenantId}.${program.name}`;
      programs.set(program.name, { ...program, subject, clientId });
      return { subject, clientId };
    });
  }

  async removeProgram(place: LoginPlace, name: string): Promise<void> {
    return this.call('removeProgram', place, () => {
      this.places.get(keyOf(place))?.programs.delete(name);
    });
  }

  async *listPlaces(): AsyncGenerator<KeptPlace> {
    this.beThere();
    for (const { place } of [...this.places.values()]) yield { tenantId: place.tenantId, mode: place.mode };
  }

  async *listAccounts(place: KeptPlace): AsyncGenerator<KeptAccount[]> {
    this.beThere();
    const found = this.places.get(keyOf(place));
    const named = (sort: KeptAccount['sort'], names: Iterable<string> = []) =>
      [...names].map((name) => ({ sort, name }));
    // One at a time: whoever asks has to ask on.
    for (const account of [
      ...named('group', found?.groups),
      ...named('user', found?.users.keys()),
      ...named('program', found?.programs.keys()),
    ])
      yield [account];
  }

  private beThere(): void {
    if (!this.away) return;
    throw new RhyzomeError('identity_provider_unavailable', 'The identity provider is away.', { retryAfterSeconds: 1 });
  }

  /** Throws RhyzomeError `conflict` where nobody has made the place. */
  private open(place: LoginPlace): MemoryPlace {
    const found = this.places.get(keyOf(place));
    if (!found) throw new RhyzomeError('conflict', `The identity provider has no ${keyOf(place)}.`);
    return found;
  }

  private addScopes(place: MemoryPlace, scopes: readonly string[]): void {
    place.scopes = [...new Set([...place.scopes, ...scopes])].sort();
  }

  private call<T>(name: string, place: LoginPlace, effect: () => T): Promise<T> {
    return new Promise((resolve) => {
      this.beThere();
      const isLast = this.death && --this.death.call === 0;
      const when = this.death?.when;
      if (isLast) this.death = undefined;
      if (isLast && when === 'before') throw new Died(`before ${name}`);
      const result = effect();
      this.calls.push(`${name} ${keyOf(place)}`);
      if (isLast) throw new Died(`after ${name}`);
      resolve(result);
    });
  }
}

function keyOf({ mode, tenantId }: Pick<LoginPlace, 'mode' | 'tenantId'>): string {
  return `${mode}/${tenantId}`;
}

function taken(key: string): RhyzomeError {
  return new RhyzomeError(
    'conflict',
    `The identity provider has ${key} already, and this installation did not make it.`,
  );
}
