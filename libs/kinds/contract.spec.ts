/** Every kind keeps the contract; one without a fixture fails. */
import 'reflect-metadata';
import { existsSync } from 'node:fs';
import { kinds } from '#libs/kinds';
import { describeKindContract, type KindContract } from '#libs/testing/contract';

for (const kind of kinds) {
  const file = new URL(`./${kind.name}/${kind.name}.contract.ts`, import.meta.url);
  const fixture = existsSync(file) ? ((await import(file.href)) as { contract: KindContract }) : undefined;
  describeKindContract(kind, kinds, fixture?.contract);
}
