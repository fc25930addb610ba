/** Injection tokens of what has no class of its own. */
export const CONTENT = Symbol('content store');
