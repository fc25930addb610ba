/** Faults of the simulated machine, injected from outside; each test takes back its own. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SimFault } from '../../libs/drivers/sim/faults.js';
import type { Stack } from './stack.js';

/** The node of a stack, or another whose agent's folder is known. */
type Where = Stack | { stateDir: string };

function fileOf(where: Where): string {
  return join('stateDir' in where ? where.stateDir : join(where.data, 'agent'), 'sim-faults.json');
}

/** From now on these, and no others. */
export function injectFaults(where: Where, faults: SimFault[]): void {
  const file = fileOf(where);
  writeFileSync(`${file}.new`, JSON.stringify(faults));
  renameSync(`${file}.new`, file);
}

export function clearFaults(where: Where): void {
  rmSync(fileOf(where), { force: true });
}
