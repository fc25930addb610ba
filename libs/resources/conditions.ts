/** Conditions: why something waits or failed. One per type; the transition time changes only with the status. */
import type { Condition } from '#libs/core';

export function withCondition(
  conditions: readonly unknown[],
  change: Pick<Condition, 'type' | 'status' | 'reason' | 'message' | 'observedGeneration'>,
  now = new Date(),
): Condition[] {
  const known = conditions as readonly Condition[];
  const previous = known.find((condition) => condition.type === change.type);
  const lastTransitionTime = previous?.status === change.status ? previous.lastTransitionTime : now.toISOString();
  return [...known.filter((condition) => condition.type !== change.type), { ...change, lastTransitionTime }];
}
