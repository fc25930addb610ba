/**
 * Looks every now and then whether what was reached is still there: what vanished is made again. A kind that reports its
 * changes by itself is then compared by status, and changes are told; a kind that does not is applied again, some at a time.
 * What failed for good is tried again, too: where it is desired all the same, its cause may have gone.
 */
import type { Capability, Driver, DriverLog } from '#libs/drivers/contract';
import { type Observed, Phase } from '#libs/rpc';
import type { Item } from './item.js';
import { itemKey } from './item.js';
import type { Reconciler } from './reconciler.js';

/** One look at everything. A kind whose inventory fails is logged and looked at next time. */
export async function checkDrift(driver: Driver, reconciler: Reconciler, log: DriverLog): Promise<void> {
  for (const capability of driver.capabilities) {
    try {
      await compareWithInventory(capability, reconciler);
      const phases = capability.watch ? [Phase.PHASE_FAILED] : [Phase.PHASE_FAILED, Phase.PHASE_READY];
      reapplyOldest(capability, reconciler, phases);
    } catch (error) {
      log.error({ err: error, kind: capability.kind }, 'the inventory cannot be read');
    }
  }
}

/** Applying a network again takes a tenth of a second of a core: with many of them, each has its turn more rarely. */
const reapplyAtOnce = 20;

function reapplyOldest(capability: Capability<any, any>, reconciler: Reconciler, phases: readonly Phase[]): void {
  const standing = [...reconciler.all()].filter(
    ({ ref, outcome }) => ref.kind === capability.kind && outcome !== undefined && phases.includes(outcome.phase),
  );
  const oldest = standing.sort((a, b) => a.triedAt - b.triedAt).slice(0, reapplyAtOnce);
  for (const item of oldest) reconciler.reapply(item);
}

async function compareWithInventory(capability: Capability<any, any>, reconciler: Reconciler): Promise<void> {
  const triesBefore = new Map<Item, number>();
  for (const item of reconciler.all()) {
    if (item.ref.kind === capability.kind && item.settled && !item.running) triesBefore.set(item, item.tries);
  }
  const found = new Map((await capability.inventory()).map((one) => [itemKey(one.ref), one]));
  for (const [item, tries] of triesBefore) {
    if (item.tries !== tries || item.running || reconciler.item(item.ref) !== item) continue;
    const present = found.get(item.key);
    const phase = item.outcome?.phase;
    if (phase === Phase.PHASE_READY && present && capability.watch) reconciler.noteStatus(present);
    if ((phase === Phase.PHASE_READY && (!present || present.damaged)) || (phase === Phase.PHASE_ABSENT && present))
      reconciler.reapply(item);
  }
}

/** All that exists on the machine, for the controller. Rejects when any kind cannot tell: half an inventory would lie. */
export async function takeInventory(driver: Driver, reconciler: Reconciler): Promise<Observed[]> {
  const kinds = await Promise.all(driver.capabilities.map((capability) => capability.inventory()));
  return kinds.flat().map(({ ref, status }) => {
    const known = reconciler.item(ref)?.observed();
    const statusJson = JSON.stringify(status);
    if (known) return { ...known, statusJson };
    return {
      ref,
      revision: 0n,
      generation: 0n,
      phase: Phase.PHASE_UNSPECIFIED,
      statusJson,
      failure: undefined,
      observedAt: new Date(),
    };
  });
}
