export * from './deeds.js';
export * from './hub.js';
export * from './placements.js';
export * from './relay.js';
