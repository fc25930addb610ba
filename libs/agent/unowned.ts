/**
 * Removes what the controller calls nobody's: its own word from the whole snapshot of this stream must agree, at the moment
 * when the resource's turn has come. A message that is late therefore meets nothing that was placed here meanwhile, and
 * what is placed here during a removal is made after it.
 */
import type { Capability, DriverLog, Ref } from '#libs/drivers/contract';
import { type UnownedOutcome, UnownedResult } from '#libs/rpc';
import { failureOf, itemKey } from './item.js';
import type { Reconciler } from './reconciler.js';
import type { KeyedQueue } from './schedule.js';

export interface UnownedParts {
  capabilities: readonly Capability<any, any>[];
  reconciler: Reconciler;
  queue: KeyedQueue;
  log: DriverLog;
  closing: AbortSignal;
  /** For each removal (ms). */
  timeoutMs: number;
}

/** One after the other, in their order. */
export async function removeUnowned(refs: readonly Ref[], parts: UnownedParts): Promise<UnownedOutcome[]> {
  const outcomes: UnownedOutcome[] = [];
  for (const { tenantId, kind, id } of refs) {
    const ref = { tenantId, kind, id };
    outcomes.push(await parts.queue.run(itemKey(ref), () => removeOne(ref, parts)));
  }
  return outcomes;
}

async function removeOne(ref: Ref, parts: UnownedParts): Promise<UnownedOutcome> {
  const { reconciler, log, closing } = parts;
  closing.throwIfAborted();
  const capability = parts.capabilities.find(({ kind }) => kind === ref.kind);
  if (!capability || !reconciler.knowsAll || reconciler.item(ref)) {
    return { ref, result: UnownedResult.UNOWNED_RESULT_KEPT, failure: undefined };
  }
  try {
    await capability.remove(ref, AbortSignal.any([closing, AbortSignal.timeout(parts.timeoutMs)]));
    log.info({ ref }, 'what nobody owns was removed');
    return { ref, result: UnownedResult.UNOWNED_RESULT_REMOVED, failure: undefined };
  } catch (error) {
    closing.throwIfAborted();
    log.warn({ ref, err: error }, 'what nobody owns could not be removed');
    return { ref, result: UnownedResult.UNOWNED_RESULT_FAILED, failure: failureOf(error).failure };
  }
}
