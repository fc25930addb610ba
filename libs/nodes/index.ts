export * from './capacity.js';
export * from './deeds.js';
export * from './hub.js';
export * from './metrics.js';
export * from './placements.js';
export * from './registry.js';
export * from './relay.js';
export * from './reports.js';
