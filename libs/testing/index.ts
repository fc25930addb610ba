export * from './database.js';
export * from './obedient-node.js';
export * from './platform.js';
