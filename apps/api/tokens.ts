/** Injection tokens of what has no class of its own. */
export const LOG = Symbol('log');
export const OPENAPI = Symbol('openapi document');
