export * from './deeds.js';
export * from './placements.js';
