/** The section `keycloak` of the settings: its defaults, what is refused, and where the secret comes from. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConfigError, keycloakSecret, loadConfig } from './index.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rhyzome-config-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const least = { url: 'https://id.example/auth/', clientId: 'rhyzome', clientSecret: 'hush' };

function load(keycloak: unknown) {
  writeFileSync(join(folder, 'rhyzome-api.json'), JSON.stringify({ keycloak }));
  return loadConfig(['keycloak'], { folder }).keycloak;
}

function problems(keycloak: unknown): string[] {
  try {
    load(keycloak);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    expect(error.message).not.toContain('hush');
    return error.problems.map((p) => `${p.pointer} ${p.message}`);
  }
}

describe('the section keycloak', () => {
  it('needs a URL and a client, and has a default for the rest', () => {
    expect(load(least)).toEqual({
      ...least,
      url: 'https://id.example/auth',
      adminRealm: 'master',
      mode: 'realm',
      sharedRealm: 'rhyzome',
      realmPrefix: '',
      redirectUris: [],
      timeoutMs: 15_000,
    });
    expect(load({ ...least, url: 'http://127.0.0.1:8080', redirectUris: ['https://console.example/*'] })).toBeDefined();
  });

  it('refuses a secret over plain http, two secrets, none, and what it does not know', () => {
    expect(problems({ ...least, url: 'http://id.example' })).toEqual([
      '/keycloak/url must be https; plain http is for loopback only',
    ]);
    expect(problems({ ...least, clientSecretFile: 'secret' })).toEqual([
      '/keycloak needs one of clientSecret and clientSecretFile',
    ]);
    expect(problems({ ...least, clientSecret: undefined })).toHaveLength(1);
    expect(problems({ ...least, realm: 'x' })[0]).toMatch(/^\/keycloak\/realm is not known here/);
    expect(problems({ ...least, mode: 'realms' })).toEqual(['/keycloak/mode must be one of realm, organization']);
    expect(problems({ ...least, redirectUris: ['javascript:alert(1)'] })[0]).toMatch(/^\/keycloak\/redirectUris\/0 /);
    expect(problems({ ...least, sharedRealm: 'a/b', realmPrefix: '../' })).toHaveLength(2);
    expect(problems({ ...least, timeoutMs: 0 })).toHaveLength(1);
  });

  it('reads the secret from its file each time, so that it can be changed', () => {
    const config = load({ ...least, clientSecret: undefined, clientSecretFile: 'secret' })!;
    expect(() => keycloakSecret(config)).toThrow('cannot be read (ENOENT)');
    writeFileSync(join(folder, 'secret'), 'first\n');
    expect(keycloakSecret(config)).toBe('first');
    writeFileSync(join(folder, 'secret'), 'second');
    expect(keycloakSecret(config)).toBe('second');
    writeFileSync(join(folder, 'secret'), '\n');
    expect(() => keycloakSecret(config)).toThrow('is empty');
  });
});
