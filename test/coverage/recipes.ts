/**
 * How to make and change a resource of each kind: what kinds.ts says, and for any kind that it does not name what the kind
 * tells the contract suite of itself. So a new kind is exercised without an edit here.
 */
import { existsSync } from 'node:fs';
import { kinds } from '#libs/kinds';
import type { ContractContext, KindContract } from '#libs/testing/contract';
import type { Client } from '../harness/client.js';
import { type KindRecipe, kindRecipes } from './kinds.js';

/** By plural; without kinds that no user makes. `more`: what fixtures need beside the API, where there is any. */
export async function recipesOfAllKinds(more: Partial<ContractContext> = {}): Promise<Record<string, KindRecipe>> {
  const recipes = { ...kindRecipes };
  for (const { name, plural, changes } of kinds)
    if (!changes || changes.includes('create')) recipes[plural] ??= await fromContract(name, more);
  return recipes;
}

/** Throws where a kind has no fixture, or one that users cannot follow. */
async function fromContract(kind: string, more: Partial<ContractContext>): Promise<KindRecipe> {
  const file = new URL(`../../libs/kinds/${kind}/${kind}.contract.ts`, import.meta.url);
  if (!existsSync(file)) throw new Error(`${file.pathname} is missing: every kind needs one.`);
  const { contract } = (await import(file.href)) as { contract: KindContract };
  if (!('create' in contract) || contract.install)
    throw new Error(`Kind ${kind} is not made by users alone: give test/coverage/kinds.ts a recipe of it.`);
  const context = (name: string) => ({ unique: () => name }) as ContractContext;
  return {
    prepare: (client) => contract.prepare?.({ ...contextOf(client), ...more }) ?? Promise.resolve(),
    create: (_world, name) => ({ ...contract.create(context(name)), name }),
    patch: contract.patch,
    actions: Object.entries(contract.actions ?? {}),
  };
}

function contextOf(client: Client): ContractContext {
  const make = async (name: string, body: object): Promise<string> => {
    const kind = kinds.find((one) => one.name === name);
    if (!kind) throw new Error(`There is no kind ${name}.`);
    return (await client.make(kind.plural, body)).id;
  };
  return { make } as ContractContext;
}
