export * from './audit.js';
export * from './follow.js';
export * from './numbering.js';
export * from './reader.js';
