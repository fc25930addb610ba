/** The suite that every kind must pass. A door of its own, since it needs vitest, which benchmarks and scripts have not. */
import { afterAll, beforeAll, describe } from 'vitest';
import type { KindDefinition } from '#libs/resources';
import { type Platform, startPlatform } from '../platform.js';
import { describeChanges } from './changes.js';
import { describeCrashes } from './crashes.js';
import type { ChangeableKind, KindContract } from './fixture.js';
import { describeLife } from './life.js';
import { describeReading } from './reading.js';
import { describeRefusals } from './refusals.js';

export { changesIn, expectWhole, openCase, present } from './case.js';
export { type ContractContext, type KindContract, kindContract } from './fixture.js';

/** Registers the suite of one kind. `kinds`: all there are, since kinds refer to each other. */
export function describeKindContract(
  kind: KindDefinition,
  kinds: readonly KindDefinition[],
  fixture: KindContract | undefined,
): void {
  describe(`kind ${kind.name}`, () => {
    if (!fixture) throw new Error(`libs/kinds/${kind.name}/${kind.name}.contract.ts is missing: every kind needs one.`);
    let platform: Platform;
    beforeAll(async () => {
      platform = await startPlatform({ kinds });
      if (!('insert' in fixture)) await fixture.install?.(platform);
    });
    afterAll(() => platform?.close());
    const at = () => platform;
    describeReading(kind, at, fixture);
    if ('insert' in fixture) {
      if (fixture.administered) describeCrashes(kind, kinds, fixture.administered);
      return;
    }
    describeLife(kind, at, fixture);
    describeChanges(kind, at, fixture);
    describeRefusals(kind, at, fixture);
    describeCrashes(kind, kinds, fixture);
  });
}

export type { ChangeableKind };
