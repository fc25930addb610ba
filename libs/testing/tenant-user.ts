/** A tenant's administrator as tests of kinds are him: makes, changes, looks at and removes things by their kinds' names. */
import type { Caller, ChangeResult, JobView, ResourceView } from '#libs/resources';
import type { Platform } from './platform.js';

export class TenantUser {
  private constructor(
    private readonly platform: Platform,
    readonly caller: Caller,
  ) {}

  /** In a new tenant, with a network `lan`. */
  static async inNewTenant(platform: Platform): Promise<TenantUser> {
    const user = new TenantUser(platform, await platform.tenant());
    await user.make('network', { name: 'lan', subnet: '10.80.0.0/24' });
    return user;
  }

  kind(name: string) {
    return this.platform.registry.get(name);
  }

  create(kind: string, body: object): Promise<ChangeResult> {
    return this.platform.pipeline.create(this.caller, this.kind(kind), body);
  }

  patch(kind: string, id: string, change: object): Promise<ChangeResult> {
    return this.platform.pipeline.update(this.caller, this.kind(kind), id, change);
  }

  act(kind: string, id: string, action: string, body: object = {}): Promise<ChangeResult> {
    return this.platform.pipeline.act(this.caller, this.kind(kind), id, action, body);
  }

  remove(kind: string, id: string): Promise<ChangeResult> {
    return this.platform.pipeline.remove(this.caller, this.kind(kind), id);
  }

  /** Waits for a change's job; throws where it did not succeed. */
  async done(change: Promise<ChangeResult>): Promise<JobView> {
    return this.platform.done(this.caller, await change);
  }

  /** Creates and waits until it is ready; gives its id. */
  async make(kind: string, body: object): Promise<string> {
    const change = await this.create(kind, body);
    await this.platform.done(this.caller, change);
    return change.body.id;
  }

  /** A machine on `lan`, from the image `tiny`. */
  machine(name: string, more: object = {}): Promise<string> {
    return this.make('instance', { ...this.machineBody(name), ...more });
  }

  machineBody(name: string) {
    return { name, image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
  }

  async view(kind: string, id: string): Promise<ResourceView> {
    return (await this.platform.reader.get(this.caller, this.kind(kind), id)).body;
  }
}
