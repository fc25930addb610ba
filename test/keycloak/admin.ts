/**
 * The administrator of the whole Keycloak: makes the client that an installation of Rhyzome works with, sees what is
 * there, and changes signing keys. What docs/keycloak.md tells an operator to do stands here as calls.
 */
import { randomBytes } from 'node:crypto';
import { keycloakAdmin } from '../../tools/keycloak/index.js';
import { askForToken } from './browser.js';

export class KeycloakAdmin {
  private token = '';
  private until = 0;

  constructor(private readonly url: string) {}

  /** A call below /admin/realms. Throws where Keycloak refuses; undefined for 404 and empty answers. */
  async call<T = any>(method: string, path: string, body?: unknown): Promise<T> {
    if (Date.now() > this.until) {
      const form = { grant_type: 'password', client_id: 'admin-cli', ...keycloakAdmin };
      this.token = (await askForToken(`${this.url}/realms/master`, form)).access_token;
      this.until = Date.now() + 30_000;
    }
    const answer = await fetch(`${this.url}/admin/realms${path}`, {
      method,
      headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(60_000),
    });
    const text = await answer.text();
    if (answer.status === 404) return undefined as T;
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return (text === '' ? undefined : JSON.parse(text)) as T;
  }

  /** docs/keycloak.md, step 1: a confidential client that may make realms and nothing else. Gives its secret. */
  async makeInstallationClient(clientId: string): Promise<string> {
    const secret = randomBytes(32).toString('base64url');
    await this.call('POST', '/master/clients', {
      clientId,
      secret,
      publicClient: false,
      serviceAccountsEnabled: true,
      standardFlowEnabled: false,
      directAccessGrantsEnabled: false,
      attributes: { 'client.use.lightweight.access.token.enabled': 'true' },
    });
    const [client] = await this.call<{ id: string }[]>('GET', `/master/clients?clientId=${clientId}`);
    const account = await this.call('GET', `/master/clients/${client!.id}/service-account-user`);
    const role = await this.call('GET', '/master/roles/create-realm');
    await this.call('POST', `/master/users/${account.id}/role-mappings/realm`, [role]);
    return secret;
  }

  async realmExists(realm: string): Promise<boolean> {
    return (await this.call('GET', `/${realm}`)) !== undefined;
  }

  async user(realm: string, username: string): Promise<any> {
    const path = `/${realm}/users?username=${encodeURIComponent(username)}&exact=true`;
    return (await this.call<any[]>('GET', path))?.[0];
  }

  /** Adds a signing key that is used from now on. Gives the id of its component. */
  async addKey(realm: string, name: string, priority: number): Promise<void> {
    const { id } = await this.call<{ id: string }>('GET', `/${realm}`);
    await this.call('POST', `/${realm}/components`, {
      name,
      parentId: id,
      providerId: 'rsa-generated',
      providerType: 'org.keycloak.keys.KeyProvider',
      config: {
        priority: [String(priority)],
        enabled: ['true'],
        active: ['true'],
        algorithm: ['RS256'],
        keySize: ['2048'],
      },
    });
  }

  /** Takes a signing key out of what the realm publishes, by its name (`rsa-generated` is the first one’s). */
  async withdrawKey(realm: string, name: string): Promise<void> {
    const components = await this.call<any[]>('GET', `/${realm}/components?type=org.keycloak.keys.KeyProvider`);
    const component = components.find((one) => one.name === name);
    const config = { ...component.config, enabled: ['false'], active: ['false'] };
    await this.call('PUT', `/${realm}/components/${component.id}`, { ...component, config });
  }
}
