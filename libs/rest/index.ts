export { type Addressed, Addressing } from './addressed.js';
export * from './http.js';
export * from './metrics.controller.js';
export * from './problem.js';
export { addressKey, RateLimiter, type RateLimits, TokenBuckets } from './rate-limit.js';
export * from './resource.controller.js';
export * from './upgrade.js';
