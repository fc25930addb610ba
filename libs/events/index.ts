export * from './audit.js';
export * from './audit-chain.js';
export * from './audit-pruning.js';
export * from './audit-sealer.js';
export * from './audit-verify.js';
export * from './follow.js';
export * from './numbering.js';
export * from './reader.js';
