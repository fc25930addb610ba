/**
 * How to make and change a resource of each kind: what kinds.ts says, and for any kind that it does not name what the kind
 * tells the contract suite of itself. So a new kind is exercised without an edit here.
 */
import { existsSync } from 'node:fs';
import { kinds } from '#libs/kinds';
import type { ContractContext, KindContract } from '#libs/testing/contract';
import type { Client } from '../harness/client.js';
import { type KindRecipe, kindRecipes } from './kinds.js';

/** By plural. */
export async function recipesOfAllKinds(): Promise<Record<string, KindRecipe>> {
  const recipes = { ...kindRecipes };
  for (const { name, plural } of kinds) recipes[plural] ??= await fromContract(name);
  return recipes;
}

/** Throws where a kind has no fixture, or one that users cannot follow. */
async function fromContract(kind: string): Promise<KindRecipe> {
  const file = new URL(`../../libs/kinds/${kind}/${kind}.contract.ts`, import.meta.url);
  if (!existsSync(file)) throw new Error(`${file.pathname} is missing: every kind needs one.`);
  const { contract } = (await import(file.href)) as { contract: KindContract };
  if (!('create' in contract) || contract.install)
    throw new Error(`Kind ${kind} is not made by users alone: give test/coverage/kinds.ts a recipe of it.`);
  const context = (name: string) => ({ unique: () => name }) as ContractContext;
  return {
    prepare: (client) => contract.prepare?.(contextOf(client)) ?? Promise.resolve(),
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
