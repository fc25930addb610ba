/** How deep a JSON value is nested: what walks values by recursion (patches, hashes, JSON.stringify) must not see an endless one. */

/** Deeper than anything that a body has a use for, and far from the end of the stack. */
export const MAX_NESTING = 64;

/** Whether a JSON value has more than `levels` levels of objects and lists. Never recurses. */
export function isNestedDeeper(value: unknown, levels: number = MAX_NESTING): boolean {
  let layer = [value].filter(isContainer);
  for (let level = 0; layer.length > 0; level++) {
    if (level >= levels) return true;
    layer = layer.flatMap((container) => Object.values(container).filter(isContainer));
  }
  return false;
}

function isContainer(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
