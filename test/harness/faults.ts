/** Faults of the simulated machine, injected from outside; each test takes back its own. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SimFault } from '../../libs/drivers/sim/faults.js';
import type { Stack } from './stack.js';

/** From now on these, and no others. */
export function injectFaults(stack: Stack, faults: SimFault[]): void {
  const file = join(stack.data, 'agent', 'sim-faults.json');
  writeFileSync(`${file}.new`, JSON.stringify(faults));
  renameSync(`${file}.new`, file);
}

export function clearFaults(stack: Stack): void {
  rmSync(join(stack.data, 'agent', 'sim-faults.json'), { force: true });
}
