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
  changesIn,
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
  /** It moves to another node: that has to be rid of what was there before, and one that dies meanwhile may end it. */
  isMove?: boolean;
  ask(): Promise<ChangeResult>;
}

export interface Life {
  kind: KindDefinition;
  caller: Caller;
  /** One a turn; undefined: it waits for the others. */
  steps: (Step | undefined)[];
  /** Throws where something is left or broken. */
  expectWhole(): Promise<void>;
  /** Takes away what was made for it before its first step. */
  remove(): Promise<void>;
}

/** Stand on nodes by themselves, so that a node can refuse them. A network stands there with an instance. */
export const onNodes = ['disk', 'snapshot', 'instance'];
const withLogin = ['user', 'group'];
/**
 * What comes and goes by itself, whether anything is left or not. Alarms are kept when they are cleared; that none is open is
 * asked in the end. What a sweep saw once, of a thing on its way, stays until it looks again. An address that was public
 * is held a while before somebody else gets it.
 */
const byTime = { audit_digest: 0, metric_sample: 0, leftover: 0, login_inventory: 0, account_orphan: 0, alarm: 0 };
/** A started stack has the image. */
const installedAlready = ['instance', 'disk', 'network'];

export async function contractOf(kind: KindDefinition): Promise<ChangeableKind> {
  const file = new URL(`../../libs/kinds/${kind.name}/${kind.name}.contract.ts`, import.meta.url);
  const { contract } = (await import(file.href)) as { contract: KindContract };
  if ('create' in contract) return contract;
  // What else it may become needs an identity provider that the development issuer is not.
  if (contract.administered) return { ...contract.administered, install: undefined, more: undefined };
  throw new Error(`kind ${kind.name} cannot be changed`);
}

/** Once, what all lives share. */
export async function prepareAll(platform: Platform): Promise<void> {
  for (const kind of kinds) {
    if (!installedAlready.includes(kind.name)) await (await contractOf(kind)).install?.(platform);
  }
}

export interface LifeOptions {
  /** What of the kind's contract is left out, or otherwise. */
  narrow?: (contract: ChangeableKind, kind: KindDefinition) => ChangeableKind;
  /** False: nodes cannot be told to refuse. */
  isRefused?: boolean;
  /** Nothing that was made for it stays behind it. */
  isRemoved?: boolean;
}

export async function openLife(
  platform: Platform,
  kind: KindDefinition,
  { narrow = (contract) => contract, isRefused = true }: LifeOptions = {},
): Promise<Life> {
  const contract = narrow(await contractOf(kind), kind);
  const made: [kind: string, id: string][] = [];
  const fixture = {
    ...contract,
    prepare: async (given: ContractContext) => {
      const make: ContractContext['make'] = async (name, body) => {
        const id = await given.make(name, body);
        made.push([name, id]);
        return id;
      };
      const ctx = { ...given, make };
      await (withLogin.includes(kind.name) ? prepareWithLogin(ctx, contract) : contract.prepare?.(ctx));
      await contract.standing?.prepare?.(ctx);
    },
  };
  const ctx = await openCase(platform, kind, fixture);
  const standing = async () => JSON.stringify({ ...(await present(ctx)), ...byTime });
  const before = await standing();
  return {
    kind,
    caller: ctx.caller,
    steps: stepsOf(ctx, contract, isRefused && onNodes.includes(kind.name)),
    expectWhole: async () => {
      const isAsBefore = async () => (await standing()) === before;
      await until(`what was there before a ${kind.name}`, isAsBefore, 60_000).catch(async (error: Error) => {
        throw new Error(`${error.message}: ${before} became ${await standing()}`);
      });
      await expectWhole(ctx, contract);
    },
    remove: async () => {
      for (const [name, id] of made.reverse()) {
        await platform.done(ctx.caller, await platform.pipeline.remove(ctx.caller, platform.registry.get(name), id));
      }
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

function stepsOf(ctx: ContractContext, contract: ChangeableKind, isRefused: boolean): (Step | undefined)[] {
  const { kind, caller } = ctx;
  const { pipeline } = ctx.platform;
  const { standing, more = [] } = contract;
  let id = '';
  const make = async () => {
    const change = await pipeline.create(caller, kind, contract.create(ctx));
    id = change.body.id;
    return change;
  };
  const remove = () => pipeline.remove(caller, kind, id);
  const refused: (Step | undefined)[] = isRefused
    ? [
        { name: 'create that its node refuses', isRefused: true, ask: make },
        { name: 'remove of what failed', ask: remove },
      ]
    : [undefined, undefined];
  const changes = changesIn(ctx, contract, () => id, [...more, ...(standing?.more ?? [])]);
  const dependant = standing?.isDependant ? dependantOf(ctx, contract, () => id) : undefined;
  const last = changes.pop()!;
  const all = changes.map((change) => ({ ...change, isMove: change.name === 'migrate' }));
  return [
    ...refused,
    { name: 'create', ask: make },
    ...(dependant ? [dependant.make, ...all, dependant.remove] : all),
    last,
  ];
}

/** What stands on it while it is changed. */
function dependantOf(ctx: ContractContext, contract: ChangeableKind, id: () => string): { make: Step; remove: Step } {
  const { pipeline, registry } = ctx.platform;
  let made = '';
  const kindOf = () => registry.get(contract.dependant!(ctx, id()).kind);
  return {
    make: {
      name: 'what stands on it',
      ask: async () => {
        const change = await pipeline.create(ctx.caller, kindOf(), contract.dependant!(ctx, id()).body);
        made = change.body.id;
        return change;
      },
    },
    remove: { name: 'the end of what stands on it', ask: () => pipeline.remove(ctx.caller, kindOf(), made) },
  };
}
