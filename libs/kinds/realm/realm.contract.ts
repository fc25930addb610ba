/** Kind realm before the contract suite: users read it, the administrator at the shell makes it. */
import { adminActor } from '#libs/auth';
import { newId } from '#libs/core';
import { memoryIdentity } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';
import { REALM_NAME, realm } from './index.js';

export const contract = kindContract({
  isPublic: false,
  insert: async (platform) => {
    memoryIdentity();
    const caller = await platform.tenant();
    const admin = { actor: adminActor(caller.actor.tenantId, 'admin:test'), requestId: newId() };
    const made = await platform.pipeline.create(admin, realm, { name: REALM_NAME, mode: 'realm' });
    await platform.done(admin, made);
    return { id: made.body.id, name: REALM_NAME, caller };
  },
  administered: {
    install: async () => {
      memoryIdentity();
    },
    create: () => ({ name: REALM_NAME, mode: 'realm' }),
    patch: { tags: { tier: 'front' } },
    more: [
      ['update', { mode: 'organization' }],
      ['update', { leftPlace: null }],
    ],
    invalid: [],
  },
});
