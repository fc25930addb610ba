/**
 * The lives that crash tests lead resources through, as each kind's contract fixture says: refused by its node and removed
 * again, made, changed, acted upon, removed; each step a job in a tenant that the life has for itself.
 */
import { adminActor } from '#libs/auth';
import { newId } from '#libs/core';
import { kinds } from '#libs/kinds';
import type { Caller, ChangeResult, KindDefinition } from '#libs/resources';
import type { Platform } from '#libs/testing';
import {
  type ChangeableKind,
  type ContractContext,
  expectWhole,
  type KindContract,
  openCase,
  present,
} from '#libs/testing/contract';
import { until } from '../harness/until.js';

export interface Step {
  name: string;
  /** Its node refuses all that stands on it meanwhile. */
  isRefused?: true;
  ask(): Promise<ChangeResult>;
}

export interface Life {
  kind: KindDefinition;
  caller: Caller;
  /** One a turn; undefined: it waits for the others. */
  steps: (Step | undefined)[];
  /** Throws where something is left or broken. */
  expectWhole(): Promise<void>;
}

/** Stand on nodes by themselves, so that a node can refuse them. A network stands there with an instance. */
export const onNodes = ['disk', 'snapshot', 'instance'];
const withLogin = ['user', 'group'];
/**
 * What comes and goes by itself, whether anything is left or not. Alarms are kept when they are cleared; that none is open is
 * asked in the end. What a sweep saw once, of a thing on its way, stays until it looks again.
 */
const byTime = { audit_digest: 0, metric_sample: 0, leftover: 0, alarm: 0 };

/** The kinds that have lives. The others' jobs are interrupted in one process only (libs/testing/contract/crashes.ts). */
const living = ['apitoken', 'disk', 'firewallrule', 'grant', 'group', 'image', 'instance', 'snapshot'];

export function livingKinds(): KindDefinition[] {
  return kinds.filter(({ name }) => living.includes(name));
}

async function contractOf(kind: KindDefinition): Promise<ChangeableKind> {
  const file = new URL(`../../libs/kinds/${kind.name}/${kind.name}.contract.ts`, import.meta.url);
  const { contract } = (await import(file.href)) as { contract: KindContract };
  if (!('create' in contract)) throw new Error(`kind ${kind.name} cannot be changed`);
  return contract;
}

/** Once, what all lives share; a started stack has the image. */
export async function prepareAll(platform: Platform): Promise<void> {
  for (const kind of livingKinds()) {
    if (!['instance', 'disk', 'network'].includes(kind.name)) await (await contractOf(kind)).install?.(platform);
  }
}

export async function openLife(platform: Platform, kind: KindDefinition): Promise<Life> {
  const contract = await contractOf(kind);
  const fixture = withLogin.includes(kind.name)
    ? { ...contract, prepare: (ctx: ContractContext) => prepareWithLogin(ctx, contract) }
    : contract;
  const ctx = await openCase(platform, kind, fixture);
  const standing = async () => JSON.stringify({ ...(await present(ctx)), ...byTime });
  const before = await standing();
  return {
    kind,
    caller: ctx.caller,
    steps: stepsOf(ctx, contract),
    expectWhole: async () => {
      const isAsBefore = async () => (await standing()) === before;
      await until(`what was there before a ${kind.name}`, isAsBefore, 60_000).catch(async (error: Error) => {
        throw new Error(`${error.message}: ${before} became ${await standing()}`);
      });
      await expectWhole(ctx, contract);
    },
  };
}

/** Its people's place is made as the administrator's command does, and by the same jobs. */
async function prepareWithLogin(ctx: ContractContext, contract: ChangeableKind): Promise<void> {
  const { platform, caller } = ctx;
  const admin = { actor: adminActor(caller.actor.tenantId, 'admin:test'), requestId: newId() };
  const body = { name: 'login', mode: 'realm' };
  await platform.done(admin, await platform.pipeline.create(admin, platform.registry.get('realm'), body));
  await contract.prepare?.({ ...ctx, platform: undefined } as unknown as ContractContext);
}

function stepsOf(ctx: ContractContext, { create, patch, actions }: ChangeableKind): (Step | undefined)[] {
  const { kind, caller } = ctx;
  const { pipeline } = ctx.platform;
  let id = '';
  const make = async () => {
    const change = await pipeline.create(caller, kind, create(ctx));
    id = change.body.id;
    return change;
  };
  const remove = () => pipeline.remove(caller, kind, id);
  const refused: (Step | undefined)[] = onNodes.includes(kind.name)
    ? [
        { name: 'create that its node refuses', isRefused: true, ask: make },
        { name: 'remove of what failed', ask: remove },
      ]
    : [undefined, undefined];
  return [
    ...refused,
    { name: 'create', ask: make },
    { name: 'update', ask: () => pipeline.update(caller, kind, id, patch) },
    ...Object.entries(actions ?? {}).map(([name, body]) => ({
      name,
      ask: () => pipeline.act(caller, kind, id, name, body),
    })),
    { name: 'remove', ask: remove },
  ];
}
