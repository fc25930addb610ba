/** Tenants with grants, for the specs of this kind. */
import { AccessDirectory, type Actor } from '#libs/auth';
import { newId, type RhyzomeError } from '#libs/core';
import { network } from '#libs/kinds/network';
import type { Caller } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { grant } from './index.js';

export class GivingLab {
  /** Of the tenant that `begin` made last. */
  admin!: Caller;

  private constructor(readonly platform: Platform) {}

  static async start(): Promise<GivingLab> {
    return new GivingLab(await startPlatform({ kinds: [network, grant] }));
  }

  async begin(): Promise<void> {
    this.admin = await this.platform.tenant();
  }

  close(): Promise<void> {
    return this.platform.close();
  }

  /** Somebody as he comes in at this moment. */
  async as(who: Partial<Actor>): Promise<Caller> {
    const { tenantId } = this.admin.actor;
    const base: Actor = { tenantId, subject: 'nora', roles: [], scopes: null, via: 'token', ...who };
    return { actor: await new AccessDirectory(this.platform.db).enrich(base), requestId: newId() };
  }

  /** Made by `author`; answers it as it is. */
  async give(author: Caller, what: object): Promise<Record<string, any>> {
    const name = `g-${newId().slice(-12)}`;
    const change = await this.platform.pipeline.create(author, grant, { name, ...what });
    await this.platform.done(this.admin, change);
    return (await this.platform.reader.get(this.admin, grant, change.body.id)).body as Record<string, any>;
  }

  private subnet = 0;
  async lan(tags: Record<string, string> = {}) {
    const body = { name: `lan-${newId().slice(-12)}`, subnet: `10.${++this.subnet % 250}.0.0/24`, tags };
    const change = await this.platform.pipeline.create(this.admin, network, body);
    await this.platform.done(this.admin, change);
    return change.body;
  }

  core(tags: Record<string, string>) {
    return { tenantId: this.admin.actor.tenantId, kind: 'network', id: 'x', tags };
  }
}

export async function refusal(work: Promise<unknown>): Promise<RhyzomeError> {
  return work.then(
    () => {
      throw new Error('it was not refused');
    },
    (error: RhyzomeError) => error,
  );
}
