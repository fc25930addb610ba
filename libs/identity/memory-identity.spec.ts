/** What tests of kinds rely on: the provider in memory repeats, refuses and dies as the interface says. */
import { afterEach, describe, expect, it } from 'vitest';
import {
  hashPassword,
  identity,
  isPasswordOf,
  type LoginPlace,
  type LoginUser,
  MemoryIdentity,
  newOneTimePassword,
  provideIdentity,
} from './index.js';

const place: LoginPlace = { tenantId: 'acme', mode: 'realm', displayName: 'Acme' };
const alice: LoginUser = { name: 'alice', enabled: true, role: 'admin', groups: [] };

describe('the identity provider in memory', () => {
  it('gives a user the same subject however often it is put, and keeps a password that the user has set', async () => {
    const memory = new MemoryIdentity();
    expect(await memory.putPlace(place, ['network:read'])).toEqual({
      issuer: 'https://id.example/realms/acme',
      organization: null,
    });
    const { hash } = await newOneTimePassword();
    const first = await memory.putUser(place, { ...alice, password: hash });
    memory.placeOf('acme')!.users.get('alice')!.isTemporary = false;
    expect(await memory.putUser(place, { ...alice, role: null, password: hash })).toEqual(first);
    expect(memory.placeOf('acme')!.users.get('alice')).toMatchObject({ role: null, isTemporary: false });
    await memory.putUser(place, { ...alice, password: await hashPassword('another') });
    expect(memory.placeOf('acme')!.users.get('alice')!.isTemporary).toBe(true);
  });

  it('takes nothing over that it did not make, and is away when told to be', async () => {
    const memory = new MemoryIdentity();
    memory.occupy(place);
    await expect(memory.putPlace(place, [])).rejects.toMatchObject({ code: 'conflict' });
    memory.away = true;
    await expect(memory.removePlace(place)).rejects.toMatchObject({ code: 'identity_provider_unavailable' });
  });

  it('dies before or after the effect of one call, and works again', async () => {
    const memory = new MemoryIdentity();
    await memory.putPlace(place, []);
    memory.dieAt(2, 'before');
    await memory.putGroup(place, 'ops');
    await expect(memory.putGroup(place, 'dev')).rejects.toMatchObject({ name: 'Died' });
    expect([...memory.placeOf('acme')!.groups]).toEqual(['ops']);
    memory.dieAt(1, 'after');
    await expect(memory.putGroup(place, 'dev')).rejects.toMatchObject({ name: 'Died' });
    await memory.removeGroup(place, 'ops');
    expect([...memory.placeOf('acme')!.groups]).toEqual(['dev']);
  });
});

describe('a one-time password', () => {
  it('fits its hash, which does not hold it', async () => {
    const { password, hash } = await newOneTimePassword();
    expect(password).toMatch(/^([a-z2-9]{5}-){4}[a-z2-9]{5}$/);
    expect(await isPasswordOf(password, hash)).toBe(true);
    expect(await isPasswordOf(`${password}x`, hash)).toBe(false);
    expect(JSON.stringify(hash)).not.toContain(password);
  });
});

describe('the provider of a process', () => {
  afterEach(() => provideIdentity(undefined));

  it('is what the process has said, or a refusal that can be read', () => {
    provideIdentity(undefined);
    expect(() => identity()).toThrow('“keycloak” is not set');
    const memory = new MemoryIdentity();
    provideIdentity(memory);
    expect(identity()).toBe(memory);
  });
});
